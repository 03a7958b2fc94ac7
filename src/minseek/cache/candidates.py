"""What an eviction chooses from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from minseek.cache.kernels import cosine_to_mean, prerope_cosine_to_mean
from minseek.cache.layer_groups import LayerGroup
from minseek.cache.rotary import rotate
from minseek.cache.slots import Slot


class Candidates:
    """The pairs of one stack of a slot's layers, as a policy sees them.

    L layers, those that have the same cap (all, as long as no caps differ); H heads, n pairs in the order of their
    positions.

    Parameters
    ----------
    slot : Slot
        Of one sequence.
    stack : LayerGroup, optional
        One of the slot's; the default is its only one.

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
        [fresh], float32, if the policy `needs_surprise`: how much less the model expected each token since the last
        eviction than a token of the vocabulary on average (difference of logits).
    cap, mean_cap : int
        How many of them will stay; how many do on average over all layers.
    memory : dict
        What the policy remembers of the sequence as a whole, empty at its first eviction; the policy's own.
    seen, new, fresh : int
        Tokens of the sequence so far; how many of the pairs (the last ones) came since the last eviction from these
        layers, and from any layer.
    """

    def __init__(self, slot: Slot, stack: LayerGroup | None = None) -> None:
        if stack is None:
            (stack,) = slot.stacks
        store, index, n = slot.store, slot.index, stack.length
        self._slot = slot
        self.cap, self.mean_cap, self.memory = stack.cap, store.shape.cap, slot.memory
        self.keys, self.values = stack.keys[:, :, :n], stack.values[:, :, :n]
        self.positions, self.token_index = stack.positions[:, :, :n], stack.token_index[:, :, :n]
        self.attn_sum, self.attn_window_sum, self.notes = (
            t[:, :, :n] for t in (stack.attn_sum, stack.attn_window_sum, stack.notes)
        )
        self.seen, self.new, self.fresh = slot.seen, n - stack.survived, slot.fresh
        asked = min(self.fresh, store.shape.block)
        layers = slice(None) if len(slot.stacks) == 1 else list(stack.layers)  # a slice copies nothing
        self.queries = store.queries[layers, index, :, :asked] if store.shape.query_heads else None
        self.surprise = store.surprise[index, : self.fresh] if store.shape.hidden else None

    def first_values(self, layers: int) -> Tensor:
        """[layers, H, fresh, D]: values of the tokens since the last eviction, in the first layers of the model."""
        slot = self._slot
        ends = slot.lengths
        return torch.stack([slot.values[i][:, ends[i] - self.fresh : ends[i]] for i in range(layers)])

    def note(self, notes: Tensor) -> None:
        """Write one note [tokens] about each of the last tokens of the sequence, in all layers and heads."""
        for stack in self._slot.stacks:
            stack.notes[:, :, stack.length - len(notes) : stack.length] = notes

    @property
    def count(self) -> int:
        """Pairs per head."""
        return self.keys.shape[2]

    @property
    def layers(self) -> int:
        """Layers of the whole model."""
        return self._slot.store.shape.shape.layers

    def prerope_cosine_to_mean(self) -> Tensor:
        """[L, H, n]: the cosine of each key without its position with the mean of all normalised ones."""
        rotary = self._slot.rotary
        cos, sin = rotary.at(0, self._slot.position)
        given = prerope_cosine_to_mean(self.keys, self.positions, cos.contiguous(), sin.contiguous())
        return cosine_to_mean(self.unrotated) if given is None else given

    @cached_property
    def unrotated(self) -> Tensor:
        """[L, H, n, D], float32: keys without their positions, so that the same content gives the same key anywhere."""
        cos, sin = self._slot.rotary.at(0, self._slot.position)
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
        return (self.seen - self.token_index).float()
