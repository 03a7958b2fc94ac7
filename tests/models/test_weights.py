"""Packing of weights on huge pages."""

from __future__ import annotations

import pytest
import torch

from minseek.models.weights import pack_contiguous
from minseek.native.pages import huge_bytes


def test_packed_weights_are_contiguous_and_still_shared() -> None:
    a, b = torch.randn(700, 33), torch.randn(5, dtype=torch.bfloat16)
    weights = {"a": a, "b": b, "again": a, "turned": a.t(), "none": torch.empty(0)}
    wanted = dict(weights)
    packed = pack_contiguous(weights)
    assert not weights  # so that originals could be freed
    assert list(packed) == list(wanted)
    for name, tensor in packed.items():
        assert torch.equal(tensor, wanted[name])
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0 or not tensor.nbytes
    assert packed["again"].data_ptr() == packed["a"].data_ptr() != a.data_ptr()
    assert len({t.untyped_storage().data_ptr() for t in packed.values()}) == 1


@pytest.mark.parametrize("count", [0, 1, 2 * 2**20 - 1, 2 * 2**20, 9_000_001])
def test_huge_bytes_have_the_requested_size(count: int) -> None:
    buffer = huge_bytes(count)
    assert buffer.shape == (count,)
    buffer.fill_(7)
    assert int(buffer.sum()) == 7 * count
    if count >= 2 * 2**20:
        assert buffer.data_ptr() % (2 * 2**20) == 0
