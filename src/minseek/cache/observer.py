"""Attention statistics that forward passes gather for a slot's eviction policy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minseek.cache.layer_groups import LayerGroup, by_layer
from minseek.cache.slot_memory import SlotMemory


class AttentionObserver:
    """Gathers, during forward passes, the statistics that the eviction policy of one slot reads.

    Attributes
    ----------
    attn_sum : sequence of Tensor
        For each layer [H, capacity], float32: attention that each pair has received since it was appended, summed over
        queries, mean over the query heads of its group.
    attn_window_sum : sequence of Tensor
        The part of it from the last `window` queries before the eviction, in the same shapes.
    queries : sequence of Tensor
        For each layer [H * G, block, D], float32: queries without positions since the last eviction, a ring buffer
        whose next row is `query_index`. Empty unless the policy needs them.
    last_hidden : Tensor or None
        [hidden_size], float32: last hidden state of the newest token, from which the next one is predicted (zeros
        before the first token). None unless the policy needs surprise.
    window : int
        Number of queries before an eviction that `attn_window_sum` covers.
    num_since_eviction : int
        Tokens since the last eviction.
    """

    attn_sum: Sequence[Tensor]
    attn_window_sum: Sequence[Tensor]

    def __init__(self, memory: SlotMemory, index: int, layer_groups: Sequence[LayerGroup], window: int = 0) -> None:
        self._memory, self._index, self._layer_groups = memory, index, layer_groups
        self.queries = memory.queries[:, index].unbind() if memory.shape.num_heads else ()
        self.last_hidden = memory.last_hidden[index] if memory.shape.hidden_size else None
        self.window = window
        self.num_since_eviction = 0

    def bind_views(self) -> None:
        """Take the views of the layer groups after they have been bound to memory."""
        self.attn_sum = by_layer(self._layer_groups, "attn_sum")
        self.attn_window_sum = by_layer(self._layer_groups, "attn_window_sum")

    @property
    def query_index(self) -> int:
        """Row of `queries` that the next query is written to."""
        return self.num_since_eviction % self._memory.shape.block

    def num_in_window(self, tokens: int) -> int:
        """Number of the next `tokens` queries that are among the last `window` before the eviction."""
        free_tokens = min(group.free_tokens for group in self._layer_groups)
        return max(0, min(tokens, tokens - (free_tokens - self.window)))

    def observe(self, layer: int, weights: Tensor) -> None:
        """Add the attention weights [H, G, T, length + T] of the tokens just appended."""
        by_query, count = weights.mean(1), weights.shape[2]
        self.attn_sum[layer][:, : weights.shape[3]] += by_query.sum(1)
        in_window = self.num_in_window(count)
        self.attn_window_sum[layer][:, : weights.shape[3]] += by_query[:, count - in_window :].sum(1)

    def record_queries(self, layer: int, queries: Tensor) -> None:
        """Keep the queries [H * G, T, D], without positions, of the tokens just appended, if the policy needs them."""
        if self.queries:
            block = self._memory.shape.block
            last = queries[:, -block:]
            end = self.query_index + queries.shape[1]
            rows = torch.arange(end - last.shape[1], end, device=queries.device)
            self.queries[layer][:, rows % block] = last.float()

    def record_surprise(self, surprise: Tensor, last_hidden: Tensor) -> None:
        """Keep the surprise [T] of the newest tokens, already counted by `advance`, and the last hidden state."""
        end = self.num_since_eviction
        self._memory.surprise[self._index, end - len(surprise) : end] = surprise
        self._memory.last_hidden[self._index] = last_hidden
