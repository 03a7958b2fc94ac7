"""The memory of slots: fixed rectangles of cache."""

from __future__ import annotations

import torch

from minseek.cache.rotary import Rotary
from minseek.cache.slot_shape import SlotShape
from minseek.native.pages import huge_zeros

FIELDS = ("keys", "values", "positions", "token_index", "attn_sum", "attn_window_sum", "notes")


class SlotMemory:
    """What all slots of a run hold, allocated at once.

    Attributes
    ----------
    count : int
        How many slots.
    keys, values : Tensor
        [slots, layers * H * (cap + block), D]: each slot's memory in one piece, which its stacks divide among them.
    positions, token_index : Tensor
        [slots, layers * H * (cap + block)], int32: where a key stands; the how-manieth token of its sequence it was.
    attn_sum, attn_window_sum, notes : Tensor
        The same shape, float32; see `minseek.cache.KVCache`, and for notes, which are the policy's, `Candidates`.
    queries : Tensor
        [layers, slots, query heads, block, D], float32.
    surprise, ahead : Tensor
        [slots, cap + block] and [slots, hidden], float32.
    """

    def __init__(self, shape: SlotShape, rotary: Rotary, slots: int, *, device: torch.device | str = "cpu") -> None:
        self.shape, self.rotary, self.count = shape, rotary, slots
        layers, heads, dim = shape.shape.layers, shape.shape.heads, shape.shape.head_dim
        rows = layers * heads * shape.capacity
        pairs, noted = (slots, rows), (slots, rows if shape.evicts else 0)
        # Zeros, not rubbish: a masked product with a NaN would be one.
        self.keys = huge_zeros((*pairs, dim), shape.shape.dtype, device)
        self.values = huge_zeros((*pairs, dim), shape.shape.dtype, device)
        self.positions = huge_zeros(noted, torch.int32, device)
        self.token_index = huge_zeros(noted, torch.int32, device)
        self.attn_sum = huge_zeros(noted, torch.float32, device)
        self.attn_window_sum = huge_zeros(noted, torch.float32, device)
        self.notes = huge_zeros(noted, torch.float32, device)
        self.queries = huge_zeros((layers, slots, shape.query_heads, shape.block, dim), torch.float32, device)
        self.surprise = torch.zeros(slots, shape.capacity if shape.hidden else 0, dtype=torch.float32, device=device)
        self.ahead = torch.zeros(slots, shape.hidden, dtype=torch.float32, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        fields = (getattr(self, name) for name in FIELDS)
        return sum(t.nbytes for t in (*fields, self.queries, self.surprise, self.ahead))
