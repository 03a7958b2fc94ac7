"""Parts of a slot that tests look at."""

from __future__ import annotations

from torch import Tensor

from minseek.cache import AttentionObserver, Slot
from minseek.cache.layer_groups import by_layer


def observer_of(slot: Slot) -> AttentionObserver:
    """The observer of a slot that has one."""
    assert slot.observer is not None
    return slot.observer


def token_index_of(slot: Slot, layer: int) -> Tensor:
    """[H, length], int32: index in the sequence of the token that produced each pair of a layer."""
    return by_layer(slot.layer_groups, "token_index")[layer][:, : slot.lengths[layer]]
