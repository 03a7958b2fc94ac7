"""Memory of a pool of slots, allocated once."""

from __future__ import annotations

import torch

from minseek.cache.rotary import Rotary
from minseek.cache.slot_shape import SlotShape
from minseek.native.pages import huge_zeros

PAIR_FIELDS = ("keys", "values", "positions", "token_index", "attn_sum", "attn_window_sum", "policy_scores")


class SlotMemory:
    """Tensors of all slots of a run, allocated at once.

    Attributes
    ----------
    num_slots : int
    keys, values : Tensor
        [slots, layers * H * (cap + block), D]: the memory of a slot is contiguous, and its layer groups partition it.
    positions, token_index : Tensor
        [slots, layers * H * (cap + block)], int32: position of each key, and index in the sequence of the token that
        produced the pair.
    attn_sum, attn_window_sum, policy_scores : Tensor
        The same shape, float32; described in `AttentionObserver`, and for the policy's own scores in `Candidates`.
    queries : Tensor
        [layers, slots, query heads, block, D], float32.
    surprise, last_hidden : Tensor
        [slots, cap + block] and [slots, hidden size], float32.
    """

    def __init__(self, shape: SlotShape, rotary: Rotary, num_slots: int, *, device: torch.device | str = "cpu") -> None:
        self.shape, self.rotary, self.num_slots = shape, rotary, num_slots
        sizes = shape.cache_shape
        layers, dim = sizes.num_layers, sizes.head_dim
        rows = layers * sizes.num_kv_heads * shape.capacity
        pairs, observed = (num_slots, rows), (num_slots, rows if shape.evicts else 0)
        # Zeros, because a masked product with an uninitialized NaN would be NaN.
        self.keys = huge_zeros((*pairs, dim), sizes.dtype, device)
        self.values = huge_zeros((*pairs, dim), sizes.dtype, device)
        self.positions = huge_zeros(observed, torch.int32, device)
        self.token_index = huge_zeros(observed, torch.int32, device)
        self.attn_sum = huge_zeros(observed, torch.float32, device)
        self.attn_window_sum = huge_zeros(observed, torch.float32, device)
        self.policy_scores = huge_zeros(observed, torch.float32, device)
        self.queries = huge_zeros((layers, num_slots, shape.num_heads, shape.block, dim), torch.float32, device)
        surprise_len = shape.capacity if shape.hidden_size else 0
        self.surprise = torch.zeros(num_slots, surprise_len, dtype=torch.float32, device=device)
        self.last_hidden = torch.zeros(num_slots, shape.hidden_size, dtype=torch.float32, device=device)

    def clear(self, index: int) -> None:
        """Zero the values that the next sequence in a slot reads before writing them."""
        self.values[index] = 0  # the weight of a pair beyond a sequence's end is 0, but 0 times NaN is NaN
        for tensor in (self.attn_sum, self.attn_window_sum, self.policy_scores, self.last_hidden):
            tensor[index] = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        fields = (getattr(self, name) for name in PAIR_FIELDS)
        return sum(t.nbytes for t in (*fields, self.queries, self.surprise, self.last_hidden))
