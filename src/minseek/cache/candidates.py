"""What an eviction chooses from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from minseek.cache.kernels import likeness, unrotated_likeness
from minseek.cache.rotary import rotate
from minseek.cache.slots import Slot


class Candidates:
    """The pairs of one slot, as a policy sees them. L layers, H heads, n pairs in the order of their positions.

    Attributes
    ----------
    keys, values : Tensor
        [L, H, n, D] in the model's dtype, keys with their positions.
    positions, arrivals : Tensor
        [L, H, n], int32: where each key stands; the how-manieth token of the sequence it was.
    received : Tensor
        [L, H, n]: attention received since the pair came, summed over queries, mean over the group's query heads.
    latest : Tensor
        [L, H, n]: the part of it from the policy's `window` latest queries.
    notes : Tensor
        [L, H, n]: what the policy wrote about the pair at an earlier eviction; 0 for new ones. It may be written to.
    queries : Tensor or None
        [L, H * G, m, D], without positions: the queries since the last eviction (at most `block`), if the policy
        `needs_queries`.
    surprise : Tensor or None
        [new], float32, if the policy `needs_surprise`: how much less the model expected each new token than a token of
        the vocabulary on average (difference of logits).
    cap : int
        How many of them will stay.
    memory : dict
        What the policy remembers of the sequence as a whole, empty at its first eviction; the policy's own.
    seen, new : int
        Tokens of the sequence so far; how many of the pairs (the last ones) came since the last eviction.
    """

    def __init__(self, slot: Slot) -> None:
        pool, index, n = slot.pool, slot.index, slot.length
        self._slot = slot
        self.cap, self.memory = pool.shape.cap, slot.memory
        self.keys, self.values = pool.keys[:, index, :, :n], pool.values[:, index, :, :n]
        self.positions, self.arrivals = pool.positions[:, index, :, :n], pool.arrivals[:, index, :, :n]
        self.received, self.latest = pool.received[:, index, :, :n], pool.latest[:, index, :, :n]
        self.notes = pool.notes[:, index, :, :n]
        self.seen, self.new = slot.seen, n - slot.survived
        asked = min(self.new, pool.shape.block)
        self.queries = pool.queries[:, index, :, :asked] if pool.shape.query_heads else None
        self.surprise = pool.surprise[index, slot.survived : n] if pool.shape.hidden else None

    @property
    def count(self) -> int:
        """Pairs per head."""
        return self.keys.shape[2]

    def unrotated_likeness(self) -> Tensor:
        """[L, H, n]: the cosine of each key without its position with the mean of all normalised ones."""
        rotary = self._slot.rotary
        cos, sin = rotary.at(0, int(self.positions.max()) + 1)
        given = unrotated_likeness(self.keys, self.positions, cos.contiguous(), sin.contiguous())
        return likeness(self.unrotated) if given is None else given

    @cached_property
    def unrotated(self) -> Tensor:
        """[L, H, n, D], float32: keys without their positions, so that the same content gives the same key anywhere."""
        cos, sin = self._slot.rotary.at(0, int(self.positions.max()) + 1)
        at = self.positions.long()
        scaling = self._slot.rotary.scaling
        return rotate(self.keys.float(), cos[at] / scaling, -sin[at] / scaling)

    def mean_rotation(self, ahead: int) -> Tensor:
        """[D, D], float32: the mean rotation of the `ahead` positions that follow."""
        cos, sin = self._slot.rotary.at(self._slot.position, ahead)
        c, s = cos.mean(0).diag(), sin.mean(0).diag()
        return torch.cat((torch.cat((c, -s), dim=1), torch.cat((s, c), dim=1)))

    @property
    def asked(self) -> Tensor:
        """[L, H, n]: how many queries could attend to each pair."""
        return (self.seen - self.arrivals).float()
