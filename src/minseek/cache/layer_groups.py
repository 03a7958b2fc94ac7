"""Groups of a slot's layers that have the same cap and are evicted from together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minseek.cache.kernels import keep_pairs
from minseek.cache.slot_memory import PAIR_FIELDS, SlotMemory


class LayerGroup:
    """Layers of one slot that have the same cap.

    Attributes
    ----------
    layers : tuple of int
        Indices of the layers, ascending.
    cap : int
        Pairs per head that survive an eviction.
    capacity : int
        Pairs per head that fit.
    length, num_survivors : int
        Pairs that each head holds, in the order of their positions; how many of them the last eviction kept.
    keys, values : Tensor
        [layers, H, capacity, D].
    positions, token_index, attn_sum, attn_window_sum, policy_scores : Tensor
        [layers, H, capacity], described in `SlotMemory`; empty where nothing is evicted.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    token_index: Tensor
    attn_sum: Tensor
    attn_window_sum: Tensor
    policy_scores: Tensor

    def __init__(self, layers: tuple[int, ...], cap: int, num_kv_heads: int) -> None:
        self.layers, self.cap, self._num_kv_heads = layers, cap, num_kv_heads
        self.capacity = self.length = self.num_survivors = 0

    @property
    def free_tokens(self) -> int:
        """Tokens that can be appended before an eviction is due."""
        return self.capacity - self.length

    def bind(self, memory: SlotMemory, index: int, first: int, capacity: int) -> None:
        """Take views of a slot's memory from the pair `first` on, `capacity` pairs a head; nothing is moved."""
        self.capacity = capacity
        sizes = (len(self.layers), self._num_kv_heads, capacity)
        end = first + len(self.layers) * self._num_kv_heads * capacity
        for field in PAIR_FIELDS:
            whole: Tensor = getattr(memory, field)[index]
            if len(whole):
                setattr(self, field, whole[first:end].view(*sizes, *whole.shape[1:]))
            else:
                setattr(self, field, whole)

    def retain(self, chosen: Tensor) -> None:
        """Evict all pairs but the chosen ones [layers, H, n]."""
        count = chosen.shape[2]
        moved = (self.keys, self.values, self.positions, self.token_index, self.attn_sum, self.policy_scores)
        keep_pairs(moved, chosen)
        self.attn_sum[:, :, count:] = 0
        self.policy_scores[:, :, count:] = 0
        self.length = self.num_survivors = count

    def copy_from(self, previous: Sequence[Tensor]) -> None:
        """Copy the pairs from the views before `bind`, layer by layer: each moves to the left or stays."""
        for field, source in zip(PAIR_FIELDS, previous, strict=True):
            target: Tensor = getattr(self, field)
            for old, new in zip(source, target, strict=True):
                new[:, : self.length] = old[:, : self.length].clone()  # old and new may overlap
        self.attn_sum[:, :, self.length :] = 0
        self.policy_scores[:, :, self.length :] = 0


def by_layer(layer_groups: Sequence[LayerGroup], field: str) -> list[Tensor]:
    """Views [H, capacity, …] of one field, in the order of the model's layers."""
    views: dict[int, Tensor] = {}
    for group in layer_groups:
        views |= zip(group.layers, getattr(group, field).unbind(), strict=True)
    return [views[layer] for layer in range(len(views))]
