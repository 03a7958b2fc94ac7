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
        Different ones of the same pool, with room for a token.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._pool = slots[0].pool
        device = self._pool.keys.device

        def gathered(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, device=device)

        self._slots = gathered([slot.index for slot in slots])
        self._lengths = gathered([slot.length for slot in slots])
        self._positions = gathered([slot.position for slot in slots])
        self._late = gathered([slot.counts_as_latest(1) for slot in slots])
        self._asked = gathered([slot.asked for slot in slots])
        self.longest = 1 + max(slot.length for slot in slots)
        cos, sin = slots[0].rotary.at(0, 1 + max(slot.position for slot in slots))
        self._angles = cos[self._positions, None], sin[self._positions, None]
        self._beyond = torch.arange(self.longest, device=device) > self._lengths[:, None]

    def rotated(self, x: Tensor) -> Tensor:
        """Queries or keys [B, heads, D] at the positions of their tokens."""
        return rotate(x, *self._angles)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys without positions and values [B, H, D]; all of the layer [B, H, n, D], keys with theirs."""
        pool = self._pool
        pool.keys[layer][self._slots, :, self._lengths] = self.rotated(keys)
        pool.values[layer][self._slots, :, self._lengths] = values
        if pool.shape.evicts:
            stands = self._positions.int()[:, None].expand(-1, keys.shape[1])
            pool.positions[layer][self._slots, :, self._lengths] = stands
        here = (self._slots, slice(None), slice(self.longest))
        return pool.keys[layer][here], pool.values[layer][here]

    def unseen(self, layer: int, window: int | None) -> Tensor:
        """[B, 1 or H, n]: pairs that a token does not attend to."""
        beyond = self._beyond[:, None]
        if window is None:
            return beyond
        if not self._pool.shape.evicts:
            at = torch.arange(self.longest, device=beyond.device)
        else:
            at = self._pool.positions[layer][self._slots, :, : self.longest]
        return beyond | (self._positions[:, None, None] - at >= window)

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [B, H, G, n], where slots do."""
        if not self._pool.shape.evicts:
            return
        given = weights.mean(2)
        self._pool.received[layer][self._slots, :, : self.longest] += given
        self._pool.latest[layer][self._slots, :, : self.longest] += given * self._late[:, None, None]

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [B, H * G, D], if the policy needs them."""
        if self._pool.shape.query_heads:
            self._pool.queries[layer][self._slots, :, self._asked] = queries.float()
