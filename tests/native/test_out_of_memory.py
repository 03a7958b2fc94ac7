"""Kernels that cannot get memory: a MemoryError with a sentence, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from minseek.cache import kernels
from minseek.models.forward import cpu_backend
from minseek.native import forward as native_forward

SCORES, ROWS = torch.zeros(1, 2, 50), torch.zeros(1, 2, 50, 16)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    usual = native_forward.KERNELS["float32"]
    failing = replace(usual, flags=(*usual.flags, "-DFAIL_ALLOCATIONS"))
    monkeypatch.setitem(native_forward.KERNELS, "float32", failing)
    if native_forward.native_status(torch.float32).library is None:
        pytest.skip("no C compiler")


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    "compute",
    [
        lambda: kernels.ranks(SCORES),
        lambda: kernels.topk_sorted(SCORES, 7),
        lambda: kernels.boost_topk(SCORES.clone(), SCORES, 7, threshold=0.0, boost=1.0),
        lambda: kernels.cosine_to_running_mean(ROWS, torch.zeros(1, 2, 16)),
    ],
)
def test_kernels_without_memory_raise_memory_error(compute: Callable[[], object]) -> None:
    with pytest.raises(MemoryError, match="no memory to compare 50 pairs of each head"):
        compute()


def test_activations_without_memory_raise_memory_error() -> None:
    with pytest.raises(MemoryError, match="no memory for activations of shape"):
        cpu_backend._floats(2**50)
