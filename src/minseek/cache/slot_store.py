"""The memory of slots: fixed rectangles of cache."""

from __future__ import annotations

import torch

from minseek.cache.rotary import Rotary
from minseek.cache.slot_shape import SlotShape

FIELDS = ("keys", "values", "positions", "arrivals", "received", "latest", "notes")


class SlotStore:
    """What all slots of a run hold, allocated at once.

    Attributes
    ----------
    count : int
        How many slots.
    keys, values : Tensor
        [slots, layers * H * (cap + block), D]: each slot's memory in one piece, which its stacks divide among them.
    positions, arrivals : Tensor
        [slots, layers * H * (cap + block)], int32: where a key stands; the how-manieth token of its sequence it was.
    received, latest, notes : Tensor
        The same shape, float32; see `minseek.cache.Pairs`, and for notes, which are the policy's, `Candidates`.
    queries : Tensor
        [layers, slots, query heads, block, D], float32.
    surprise, ahead : Tensor
        [slots, cap + block] and [slots, hidden], float32.
    """

    def __init__(self, shape: SlotShape, rotary: Rotary, slots: int, *, device: torch.device | str = "cpu") -> None:
        self.shape, self.rotary, self.count = shape, rotary, slots
        layers, heads, dim = shape.shape.layers, shape.shape.heads, shape.shape.head_dim
        rows = layers * heads * shape.capacity
        # Zeros, not rubbish: a masked product with a NaN would be one.
        self.keys = torch.zeros(slots, rows, dim, dtype=shape.shape.dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        noted = (slots, rows if shape.evicts else 0)
        self.positions = torch.zeros(noted, dtype=torch.int32, device=device)
        self.arrivals = torch.zeros_like(self.positions)
        self.received = torch.zeros(noted, dtype=torch.float32, device=device)
        self.latest = torch.zeros_like(self.received)
        self.notes = torch.zeros_like(self.received)
        asked = (layers, slots, shape.query_heads, shape.block, dim)
        self.queries = torch.zeros(asked, dtype=torch.float32, device=device)
        self.surprise = torch.zeros(slots, shape.capacity if shape.hidden else 0, dtype=torch.float32, device=device)
        self.ahead = torch.zeros(slots, shape.hidden, dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        fields = (getattr(self, name) for name in FIELDS)
        return sum(t.nbytes for t in (*fields, self.queries, self.surprise, self.ahead))
