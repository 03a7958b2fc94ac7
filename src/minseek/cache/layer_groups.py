"""Layers of one slot that have the same cap: what is evicted from together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minseek.cache.kernels import keep_pairs
from minseek.cache.slot_memory import FIELDS, SlotMemory


class LayerGroup:
    """Some layers of a slot.

    Attributes
    ----------
    layers : tuple of int
        Which ones, ascending.
    cap : int
        Pairs per head that survive an eviction.
    capacity : int
        Pairs per head that it has room for.
    length, survived : int
        Pairs that each head holds, in the order of their positions; how many of them the last eviction left.
    keys, values : Tensor
        [layers, H, capacity, D].
    positions, arrivals, received, latest, notes : Tensor
        [layers, H, capacity]; empty where nothing is evicted. See `SlotMemory`.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    token_index: Tensor
    attn_sum: Tensor
    attn_window_sum: Tensor
    notes: Tensor

    def __init__(self, layers: tuple[int, ...], cap: int, heads: int) -> None:
        self.layers, self.cap, self._heads = layers, cap, heads
        self.capacity = self.length = self.survived = 0

    @property
    def room(self) -> int:
        """Tokens that there is room for before an eviction is due."""
        return self.capacity - self.length

    def lie(self, store: SlotMemory, index: int, first: int, capacity: int) -> None:
        """Take room for so many pairs a head in a slot's memory, from the pair `first` on."""
        self.capacity = capacity
        sizes = (len(self.layers), self._heads, capacity)
        end = first + len(self.layers) * self._heads * capacity
        for field in FIELDS:
            whole: Tensor = getattr(store, field)[index]
            if len(whole):
                setattr(self, field, whole[first:end].view(*sizes, *whole.shape[1:]))
            else:
                setattr(self, field, whole)

    def keep(self, chosen: Tensor) -> None:
        """Evict all pairs but the chosen ones [layers, H, n]."""
        count = chosen.shape[2]
        moved = (self.keys, self.values, self.positions, self.token_index, self.attn_sum, self.notes)
        keep_pairs(moved, chosen)
        self.attn_sum[:, :, count:] = 0
        self.notes[:, :, count:] = 0
        self.length = self.survived = count

    def take(self, before: Sequence[Tensor]) -> None:
        """Fetch the pairs from where they lay before, layer by layer: each moves to the left, or stays."""
        for field, source in zip(FIELDS, before, strict=True):
            target: Tensor = getattr(self, field)
            for old, new in zip(source, target, strict=True):
                new[:, : self.length] = old[:, : self.length].clone()  # old and new may overlap
        self.attn_sum[:, :, self.length :] = 0
        self.notes[:, :, self.length :] = 0
