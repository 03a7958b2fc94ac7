"""Packing of weights on huge pages."""

from __future__ import annotations

import pytest
import torch

from minseek.models.weights import pack_contiguous
from minseek.native.pages import huge_bytes


def test_gathered_weights_lie_behind_each_other_and_what_was_shared_is() -> None:
    a, b = torch.randn(700, 33), torch.randn(5, dtype=torch.bfloat16)
    weights = {"a": a, "b": b, "again": a, "turned": a.t(), "none": torch.empty(0)}
    wanted = dict(weights)
    gathered = pack_contiguous(weights)
    assert not weights  # what nobody else holds could be freed
    assert list(gathered) == list(wanted)
    for name, tensor in gathered.items():
        assert torch.equal(tensor, wanted[name])
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0 or not tensor.nbytes
    assert gathered["again"].data_ptr() == gathered["a"].data_ptr() != a.data_ptr()
    assert len({t.untyped_storage().data_ptr() for t in gathered.values()}) == 1


@pytest.mark.parametrize("count", [0, 1, 2 * 2**20 - 1, 2 * 2**20, 9_000_001])
def test_huge_bytes_are_as_many_as_asked_for(count: int) -> None:
    room = huge_bytes(count)
    assert room.shape == (count,)
    room.fill_(7)
    assert int(room.sum()) == 7 * count
    if count >= 2 * 2**20:
        assert room.data_ptr() % (2 * 2**20) == 0
