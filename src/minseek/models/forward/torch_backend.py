"""The forward pass in PyTorch over a decoder's weights, on whatever device they lie."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache import DecodeBatch, SlotMemory, rotate
from minseek.errors import MinseekWarning
from minseek.models.forward.attention import attend, attention_with_weights, decode_attention
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.forward.cuda_graphs import CaptureFn, CudaGraphCache, RecordingError
from minseek.models.forward.decode_groups import Group, grouped, logit_rows
from minseek.models.forward.surprise import Surprise
from minseek.models.weights import DecoderWeights, LayerWeights


class TorchForward:
    """Feeds tokens through a decoder: products over all tokens of a pass, attention over all `DecodeBatch` at once.

    Parameters
    ----------
    parts : DecoderWeights
    surprise : Surprise
    record : Record or None
        What records passes of nothing but single tokens; None carries them out one operation at a time.
    """

    def __init__(self, parts: DecoderWeights, surprise: Surprise, record: CaptureFn | None) -> None:
        self._parts, self._surprise, self.record = parts, surprise, record
        self._recordings: WeakKeyDictionary[SlotMemory, CudaGraphCache] = WeakKeyDictionary()

    def memory(self, columns: int, longest: int, singles: int) -> int:
        """Bytes that a pass of so many tokens needs, `singles` of them alone; the longest sequence has `longest`."""
        config = self._parts.config
        apart = min(columns, 128) * self._weights(longest) + config.num_heads * self._pairs(longest)
        needed = columns * self._width + max(apart, self._together(longest, singles))
        return needed + (self._recorded_memory(longest, singles) + self._given(singles) if self.record else 0)

    def _recorded_memory(self, longest: int, singles: int) -> int:
        """Of recorded passes together, which take turns with it: the largest one's."""
        logits = singles * self._parts.vocab_size * self._parts.shape.dtype.itemsize
        return singles * self._width + self._together(longest, singles) + logits + self._given(singles)

    def _given(self, rows: int) -> int:
        return 4 * rows * (self._parts.vocab_size + self._parts.hidden)

    def _together(self, longest: int, singles: int) -> int:
        return singles * (self._weights(longest) + self._parts.config.num_kv_heads * self._pairs(longest))

    @property
    def _width(self) -> int:
        """Of one token's activations in a layer."""
        parts, config = self._parts, self._parts.config
        numbers = 4 * parts.hidden + 3 * parts.intermediate_size + 4 * config.num_heads * config.head_dim
        return numbers * parts.shape.dtype.itemsize

    def _weights(self, longest: int) -> int:
        """Of one token's attention: weights twice and in the model's dtype, and for each head who is not looked at."""
        config, size = self._parts.config, self._parts.shape.dtype.itemsize
        return longest * (config.num_heads * (8 + size) + 5 * config.num_kv_heads)

    def _pairs(self, longest: int) -> int:
        """Of one head's pairs, where they are fetched, or repeated for the query heads of a group."""
        return 2 * longest * self._parts.config.head_dim * self._parts.shape.dtype.itemsize

    def forward(self, feeds: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        """Append the tokens of each feed to its cache.

        Returns
        -------
        logits, hidden : Tensor
            Of the tokens that are wanted, in order: float32, [n, vocabulary] and [n, hidden] (after the last norm).
        """
        for feed in feeds:
            feed.cache.reserve(len(feed.tokens))
        groups, apart = grouped(feeds)
        alone = [feed for group in groups for feed in group.feeds]
        device = self._parts.embedding.device
        rows = torch.tensor(logit_rows(feeds, alone + apart), dtype=torch.long, device=device)
        given = None if apart else self._recorded(groups)
        if given is None:
            logits, hidden = self._through([group.singles(device) for group in groups], apart, rows)
        else:
            logits, hidden = given[0][rows], given[1][rows]
        for feed in alone:
            feed.cache.count(1)
        return logits, hidden

    def _recorded(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor] | None:
        """Logits and states of all tokens of a pass over slots of one store; None if it is to be carried out anew."""
        store, kinds = groups[0].store, tuple(group.kind for group in groups)
        if self.record is None or any(group.store is not store for group in groups):
            return None

        def run(numbers: Tensor) -> tuple[Tensor, Tensor]:
            parts = torch.split(numbers, [kind.sequences for kind in kinds])
            singles = [
                DecodeBatch(store, kind.divided, part, kind.within) for kind, part in zip(kinds, parts, strict=True)
            ]
            return self._through(singles, (), None)

        if store not in self._recordings:
            device = self._parts.embedding.device
            logits, hidden = (
                torch.empty(store.count, size, dtype=torch.float32, device=device)
                for size in (self._parts.vocab_size, self._parts.hidden)
            )
            room = self._recorded_memory(store.shape.largest, store.count)
            self._recordings[store] = CudaGraphCache(self.record, logits, hidden, room)
        try:
            return self._recordings[store].capture_fn(kinds, [own for group in groups for own in group.numbers], run)
        except RecordingError as error:
            self.record = None
            self._recordings.clear()
            told = f"decoding will be slow: its passes could not be recorded ({error})"
            warnings.warn(told, MinseekWarning, stacklevel=2)
            return None

    def _through(
        self, singles: Sequence[DecodeBatch], apart: Sequence[SequenceChunk], wanted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A pass over single tokens and behind them those of other feeds: of the wanted rows, or of all."""
        parts, sets = self._parts, _placed(singles, apart)
        tokens = [own.tokens for own in singles]
        if apart:
            others = [token for feed in apart for token in feed.tokens]
            tokens.append(torch.tensor(others, device=parts.embedding.device))
        for own in singles:
            own.arrive()
        hidden = F.embedding(torch.cat(tokens), parts.embedding)
        for index, layer in enumerate(parts.layers):
            hidden = hidden + self._attention(index, layer, self._norm(hidden, layer.attn_norm), sets)
            normed = self._norm(hidden, layer.mlp_norm)
            gated = F.silu(F.linear(normed, layer.gate, layer.gate_bias)) * F.linear(normed, layer.up, layer.up_bias)
            hidden = hidden + F.linear(gated, layer.down, layer.down_bias)
        last = self._norm(hidden, parts.norm)
        for own, rows in sets.singles:
            if (before := own.ahead) is not None:
                own.remember_surprise(self._surprise.of(own.tokens, before), last[rows].float())
        for feed, rows in sets.apart:
            feed.cache.advance(len(feed.tokens))
            if feed.cache.ahead is not None:
                self._surprise.note([feed], last[rows])
        if wanted is not None:
            last = last[wanted]
        return F.linear(last, parts.head, parts.head_bias).float(), last.float()

    def _attention(self, index: int, layer: LayerWeights, x: Tensor, sets: _Sets) -> Tensor:
        dim, scale = self._parts.shape.head_dim, self._parts.config.attention_scale
        q = F.linear(x, layer.q, layer.q_bias).view(len(x), -1, dim)
        k = F.linear(x, layer.k, layer.k_bias).view(len(x), -1, dim)
        v = F.linear(x, layer.v, layer.v_bias).view(len(x), -1, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = torch.empty_like(q)
        for singles, rows in sets.singles:
            singles.remember_queries(index, q[rows])
            rotated = singles.rotated(torch.cat((q[rows], k[rows]), 1))
            queries, new = rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]
            keys, values = singles.append(index, new, v[rows])
            unseen = singles.unseen(index, layer.window)
            out[rows], weights = decode_attention(queries, keys, values, unseen, scale=scale)
            singles.observe(index, weights)
        for feed, rows in sets.apart:
            mine = (t[rows].transpose(0, 1) for t in (q, k, v))
            out[rows] = _attend_feed(index, feed, *mine, scale=scale, window=layer.window).transpose(0, 1)
        return F.linear(out.view(len(x), -1), layer.o, layer.o_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._parts.config.rms_norm_eps)


@dataclass(frozen=True)
class _Sets:
    """What is computed together and apart, with the rows of its tokens."""

    singles: list[tuple[DecodeBatch, slice]]
    apart: list[tuple[SequenceChunk, slice]]


def _placed(singles: Sequence[DecodeBatch], apart: Sequence[SequenceChunk]) -> _Sets:
    counts = [len(own.tokens) for own in singles] + [len(feed.tokens) for feed in apart]
    rows = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
    return _Sets(list(zip(singles, rows, strict=False)), list(zip(apart, rows[len(singles) :], strict=True)))


def _attend_feed(
    index: int, feed: SequenceChunk, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
) -> Tensor:
    """Attention of one sequence's new tokens, in one layer: [H * G, T, D] of q and k without positions."""
    cache, count = feed.cache, len(feed.tokens)
    cache.remember_queries(index, q)
    queries = rotate(q, *cache.rotary.at(cache.position, count))
    keys, values = cache.append(index, k, v)
    if not cache.attn_sum:
        return attend(queries, keys, values, scale=scale, window=window)
    at = cache.positions[index][:, : keys.shape[1]]
    given, weights = attention_with_weights(queries, keys, values, at, scale=scale, window=window)
    cache.observe(index, weights)
    return given
