"""One new token each of many slots, written and attended to together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minseek.cache.rotary import rotate
from minseek.cache.slots import Slot


class Singles:
    """Slots of one pool that a pass gives one token each: a few large operations a layer instead of many small ones.

    B slots; n is the number of pairs that the longest has with its new token.

    Parameters
    ----------
    slots : sequence of Slot
        Different ones of the same pool, all of them divided or none, with room for a token.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._like = slots[0]
        self._pool = self._like.pool
        device = self._pool.keys.device

        def gathered(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, device=device)

        self._slots = gathered([slot.index for slot in slots])
        self._positions = gathered([slot.position for slot in slots])
        self._late = gathered([slot.counts_as_latest(1) for slot in slots])
        self._asked = gathered([slot.asked for slot in slots])
        cos, sin = self._like.rotary.at(0, 1 + max(slot.position for slot in slots))
        self._angles = cos[self._positions, None], sin[self._positions, None]
        self._lengths, self._longest, self._beyond = {}, {}, {}
        for i, stack in enumerate(self._like.stacks):
            lengths = [slot.stacks[i].length for slot in slots]
            self._lengths[stack], self._longest[stack] = gathered(lengths), 1 + max(lengths)
            within = torch.arange(self._longest[stack], device=device)
            self._beyond[stack] = within > self._lengths[stack][:, None]

    def _of(self, layer: int, whole: Tensor) -> Tensor:
        """[slots, H, capacity, …] of one layer."""
        stack, i = self._like.stack_of(layer)
        heads = self._pool.shape.shape.heads
        first = stack.first + i * heads * stack.capacity
        own = whole[:, first : first + heads * stack.capacity]
        return own.view(len(whole), heads, stack.capacity, *whole.shape[2:])

    def rotated(self, x: Tensor) -> Tensor:
        """Queries or keys [B, heads, D] at the positions of their tokens."""
        return rotate(x, *self._angles)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys without positions and values [B, H, D]; all of the layer [B, H, n, D], keys with theirs."""
        pool, (stack, _) = self._pool, self._like.stack_of(layer)
        own_keys, own_values = self._of(layer, pool.keys), self._of(layer, pool.values)
        own_keys[self._slots, :, self._lengths[stack]] = self.rotated(keys)
        own_values[self._slots, :, self._lengths[stack]] = values
        if pool.shape.evicts:
            stands = self._positions.int()[:, None].expand(-1, keys.shape[1])
            self._of(layer, pool.positions)[self._slots, :, self._lengths[stack]] = stands
        here = (self._slots, slice(None), slice(self._longest[stack]))
        return own_keys[here], own_values[here]

    def unseen(self, layer: int, window: int | None) -> Tensor:
        """[B, 1 or H, n]: pairs that a token does not attend to."""
        stack, _ = self._like.stack_of(layer)
        beyond = self._beyond[stack][:, None]
        if window is None:
            return beyond
        if not self._pool.shape.evicts:
            at = torch.arange(self._longest[stack], device=beyond.device)
        else:
            at = self._of(layer, self._pool.positions)[self._slots, :, : self._longest[stack]]
        return beyond | (self._positions[:, None, None] - at >= window)

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [B, H, G, n], where slots do."""
        if not self._pool.shape.evicts:
            return
        given, longest = weights.mean(2), weights.shape[3]
        self._of(layer, self._pool.received)[self._slots, :, :longest] += given
        self._of(layer, self._pool.latest)[self._slots, :, :longest] += given * self._late[:, None, None]

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [B, H * G, D], if the policy needs them."""
        if self._pool.shape.query_heads:
            self._pool.queries[layer][self._slots, :, self._asked] = queries.float()
