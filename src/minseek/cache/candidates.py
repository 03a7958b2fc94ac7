"""Pairs that an eviction chooses from."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from minseek.cache.kernels import cosine_to_mean, prerope_cosine_to_mean
from minseek.cache.layer_groups import LayerGroup
from minseek.cache.rotary import rotate
from minseek.cache.slots import Slot


class Candidates:
    """Pairs of one layer group of a slot, as a policy sees them.

    L layers, those that have the same cap (all layers, unless caps differ); H heads, n pairs in the order of their
    positions.

    Parameters
    ----------
    slot : Slot
        Slot of the sequence, of a pool with a policy.
    group : LayerGroup, optional
        One of the slot's layer groups; the default is its only one.

    Attributes
    ----------
    keys, values : Tensor
        [L, H, n, D] in the model's dtype, keys with their positions.
    positions, token_index : Tensor
        [L, H, n], int32: position of each key; index in the sequence of the token that produced the pair.
    attn_sum : Tensor
        [L, H, n]: attention received since the pair was appended, summed over queries, mean over the group's query
        heads.
    attn_window_sum : Tensor
        [L, H, n]: the part of it from the last `window` queries of the policy.
    policy_scores : Tensor
        [L, H, n]: scores that the policy stored for the pairs at an earlier eviction, 0 for new pairs. Writable.
    queries : Tensor or None
        [L, H * G, m, D], without positions: the queries since the last eviction (at most `block`), if the policy
        `needs_queries`.
    surprise : Tensor or None
        [num_since_eviction], float32, if the policy `needs_surprise`: how much less the model expected each token since
        the last eviction than a token of the vocabulary on average (difference of logits).
    cap, mean_cap : int
        Number of pairs per head that will stay; its mean over all layers of the model.
    policy_state : dict
        The policy's own state of the sequence as a whole, empty at its first eviction.
    num_tokens, num_new, num_since_eviction : int
        Tokens of the sequence so far; number of the pairs (the last ones) that were appended since the last eviction
        from these layers, and since the last eviction from any layer.
    """

    def __init__(self, slot: Slot, group: LayerGroup | None = None) -> None:
        if group is None:
            (group,) = slot.layer_groups
        observer, memory, index, n = slot.observer, slot.memory, slot.index, group.length
        assert observer is not None, "a slot without a policy evicts nothing"
        self._slot = slot
        self.cap, self.mean_cap, self.policy_state = group.cap, memory.shape.cap, slot.policy_state
        self.keys, self.values = group.keys[:, :, :n], group.values[:, :, :n]
        self.positions, self.token_index = group.positions[:, :, :n], group.token_index[:, :, :n]
        self.attn_sum, self.attn_window_sum = group.attn_sum[:, :, :n], group.attn_window_sum[:, :, :n]
        self.policy_scores = group.policy_scores[:, :, :n]
        self.num_tokens, self.num_new = slot.num_tokens, n - group.num_survivors
        self.num_since_eviction = since = observer.num_since_eviction
        layers = slice(None) if len(slot.layer_groups) == 1 else list(group.layers)  # a slice copies nothing
        num_queries = min(since, memory.shape.block)
        self.queries = memory.queries[layers, index, :, :num_queries] if memory.shape.num_heads else None
        self.surprise = memory.surprise[index, :since] if memory.shape.hidden_size else None

    def first_values(self, layers: int) -> Tensor:
        """[layers, H, num_since_eviction, D]: values of the newest tokens in the first layers of the model."""
        slot = self._slot
        ends = slot.lengths
        return torch.stack([slot.values[i][:, ends[i] - self.num_since_eviction : ends[i]] for i in range(layers)])

    def set_policy_scores(self, scores: Tensor) -> None:
        """Store one score [tokens] for each of the last tokens of the sequence, in all layers and heads."""
        for group in self._slot.layer_groups:
            group.policy_scores[:, :, group.length - len(scores) : group.length] = scores

    @property
    def num_pairs(self) -> int:
        """Pairs per head."""
        return self.keys.shape[2]

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return self._slot.memory.shape.cache_shape.num_layers

    @property
    def num_queries_seen(self) -> Tensor:
        """[L, H, n]: number of queries that could attend to each pair."""
        return (self.num_tokens - self.token_index).float()

    def prerope_cosine_to_mean(self) -> Tensor:
        """[L, H, n]: cosine of each key without its position with the mean of all normalized ones."""
        rotary = self._slot.rotary
        cos, sin = rotary.at(0, self._slot.position)
        cosine = prerope_cosine_to_mean(self.keys, self.positions, cos.contiguous(), sin.contiguous())
        return cosine_to_mean(self.unrotated) if cosine is None else cosine

    @cached_property
    def unrotated(self) -> Tensor:
        """[L, H, n, D], float32: keys without their positions, so that equal content gives equal keys anywhere."""
        cos, sin = self._slot.rotary.at(0, self._slot.position)
        positions = self.positions.long()
        scaling = self._slot.rotary.scaling
        return rotate(self.keys.float(), cos[positions] / scaling, -sin[positions] / scaling)

    def mean_rotation(self, horizon: int) -> Tensor:
        """[D, D], float32: mean rotation of the next `horizon` positions."""
        cos, sin = self._slot.rotary.at(self._slot.position, horizon)
        c, s = cos.mean(0).diag(), sin.mean(0).diag()
        return torch.cat((torch.cat((c, -s), dim=1), torch.cat((s, c), dim=1)))
