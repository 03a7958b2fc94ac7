"""Decode step of many sequences in slots: one new token each, appended and attended to together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minseek.cache.base import KVCache
from minseek.cache.slot_memory import SlotMemory
from minseek.cache.slots import Slot
from minseek.cache.thought_cache import ThoughtCache


def slot_of(cache: KVCache) -> Slot | None:
    """The slot whose memory a cache uses, if any."""
    if isinstance(cache, Slot):
        return cache
    return cache.slot if isinstance(cache, ThoughtCache) else None


NUM_FIXED = 7  # columns of an input row before the lengths of the layer groups


def input_row(token: int, cache: KVCache) -> list[int]:
    """Row of `DecodeBatch` for a token and the sequence in a slot that it is appended to."""
    if isinstance(cache, Slot):
        statistics, observer = [0, 0, 0], cache.observer
        if observer is not None:
            statistics = [observer.num_since_eviction, observer.query_index, observer.num_in_window(1)]
        lengths = [group.length for group in cache.layer_groups]
        return [token, cache.index, cache.position, cache.num_tokens, *statistics, *lengths]
    slot, length = slot_of(cache), cache.length
    assert slot is not None
    return [token, slot.index, length, length, 0, 0, 0, *[length] * len(slot.layer_groups)]


class DecodeBatch:
    """Sequences in slots that take one token each in a pass: few large operations instead of many small ones.

    B sequences in one pool's memory. Everything that changes from token to token is in one tensor, and no size depends
    on it: replaying the captured operations with new values in this tensor performs the next step
    (`minseek.models.forward.cuda_graphs`).

    Parameters
    ----------
    memory : SlotMemory
    partitioned : bool
        All slots are partitioned; otherwise none is.
    input_rows : Tensor
        [B, NUM_FIXED + layer groups], int64: an `input_row` for each sequence, slots ascending.
    max_kv_len : sequence of int
        For each layer group the number n of pairs per head that attention reads; more than the longest sequence has.
    """

    def __init__(self, memory: SlotMemory, partitioned: bool, input_rows: Tensor, max_kv_len: Sequence[int]) -> None:
        self._memory, self._layout = memory, memory.shape.layout(partitioned)
        columns = input_rows.unbind(1)
        self.tokens, self._slots, self._positions, self._token_index = columns[:4]
        self._num_since_eviction, self._query_index, self._in_window = columns[4:NUM_FIXED]
        self._lengths, self._max_kv_len = columns[NUM_FIXED:], max_kv_len
        self._all_slots = len(input_rows) == memory.num_slots  # then slices do for indices, and nothing is gathered
        self._rows = slice(None) if self._all_slots else self._slots
        layers = [layers for _, layers in memory.shape.layer_groups]
        self._group_and_row = {
            layer: (group, i) for group, indices in enumerate(layers) for i, layer in enumerate(indices)
        }
        cos, sin = (angles[:, None] for angles in memory.rotary.of(self._positions))
        self._cos, self._sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        self._beyond_end = [
            torch.arange(n, device=input_rows.device) > lengths[:, None]
            for n, lengths in zip(max_kv_len, self._lengths, strict=True)
        ]

    def _group_view(self, group: int, whole: Tensor) -> Tensor:
        """[slots, layers, H, capacity, …] of a layer group."""
        first, capacity = self._layout[group]
        shape = self._memory.shape
        layers, heads = len(shape.layer_groups[group][1]), shape.cache_shape.num_kv_heads
        view = whole[:, first : first + layers * heads * capacity]
        return view.view(len(whole), layers, heads, capacity, *whole.shape[2:])

    def _layer_view(self, layer: int, whole: Tensor) -> Tensor:
        """[slots, H, capacity, …] of a layer."""
        group, i = self._group_and_row[layer]
        return self._group_view(group, whole)[:, i]

    def write_positions(self) -> None:
        """Store positions and token indices of the new pairs in all layers; `append` follows in each."""
        if not self._memory.shape.evicts:
            return
        for group, lengths in enumerate(self._lengths):
            new = (self._slots, slice(None), slice(None), lengths)
            self._group_view(group, self._memory.positions)[new] = self._positions.int()[:, None, None]
            self._group_view(group, self._memory.token_index)[new] = self._token_index.int()[:, None, None]

    def rotated(self, x: Tensor) -> Tensor:
        """Queries and keys [B, heads, D] at the positions of their tokens: as `rotate`, in fewer operations."""
        x32 = x.float()
        return torch.addcmul(x32 * self._cos, x32.roll(x.shape[2] // 2, -1), self._sin).to(x.dtype)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write rotated keys and values [B, H, D]; all of the layer, [B, H, n, D] each."""
        all_keys, all_values = self._layer_view(layer, self._memory.keys), self._layer_view(layer, self._memory.values)
        group, _ = self._group_and_row[layer]
        all_keys[self._slots, :, self._lengths[group]] = keys
        all_values[self._slots, :, self._lengths[group]] = values
        # Two or more sequences are gathered even if they are all slots: matrix products need contiguous operands.
        pairs = (self._slots if len(keys) > 1 else self._rows, slice(None), slice(self._max_kv_len[group]))
        return all_keys[pairs], all_values[pairs]

    def attention_mask(self, layer: int, window: int | None) -> Tensor:
        """[B, 1 or H, n], True for pairs that the new token does not attend to."""
        group, _ = self._group_and_row[layer]
        beyond_end = self._beyond_end[group][:, None]
        if window is None:
            return beyond_end
        if not self._memory.shape.evicts:
            positions = torch.arange(self._max_kv_len[group], device=beyond_end.device)
        else:
            positions = self._layer_view(layer, self._memory.positions)[self._rows, :, : self._max_kv_len[group]]
        return beyond_end | (self._positions[:, None, None] - positions >= window)

    def observe(self, layer: int, weights: Tensor) -> None:
        """Add attention weights [B, H, G, n] to the statistics of slots that have an observer."""
        if not self._memory.shape.evicts:
            return
        by_kv_head = weights.mean(2)
        self._add(layer, self._memory.attn_sum, by_kv_head)
        self._add(layer, self._memory.attn_window_sum, by_kv_head * self._in_window[:, None, None])

    def _add(self, layer: int, whole: Tensor, weights: Tensor) -> None:
        sums = self._layer_view(layer, whole)[:, :, : weights.shape[2]]
        total = sums[self._rows].add_(weights)
        if not self._all_slots:  # the gathered rows are a copy
            sums[self._slots] = total

    def record_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [B, H * G, D], if the policy needs them."""
        if self._memory.shape.num_heads:
            self._memory.queries[layer][self._slots, :, self._query_index] = queries.float()

    @property
    def last_hidden(self) -> Tensor | None:
        """[B, hidden size]: last hidden state of each sequence's previous token; None unless the policy needs it."""
        return self._memory.last_hidden[self._slots] if self._memory.shape.hidden_size else None

    def record_surprise(self, surprise: Tensor, last_hidden: Tensor) -> None:
        """Keep the surprise [B] of the new tokens and their last hidden states [B, hidden size]."""
        self._memory.surprise[self._slots, self._num_since_eviction] = surprise
        self._memory.last_hidden[self._slots] = last_hidden
