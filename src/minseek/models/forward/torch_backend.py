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
from minseek.models.forward.surprise import Surprise, needs_surprise
from minseek.models.weights import DecoderWeights, LayerWeights


class TorchForward:
    """Feeds tokens through a decoder: products over all tokens of a pass, attention over all `DecodeBatch` at once.

    Parameters
    ----------
    weights : DecoderWeights
    surprise : Surprise
    capture : CaptureFn or None
        Captures passes that only decode as CUDA graphs; None runs them operation by operation.
    """

    def __init__(self, weights: DecoderWeights, surprise: Surprise, capture: CaptureFn | None) -> None:
        self._weights, self._surprise, self.capture = weights, surprise, capture
        self._recordings: WeakKeyDictionary[SlotMemory, CudaGraphCache] = WeakKeyDictionary()

    def memory(self, tokens: int, longest: int, decode_tokens: int) -> int:
        """Bytes of a pass over `tokens`, of which `decode_tokens` are decoded in batches.

        longest: pairs a head of the longest sequence after the pass.
        """
        prefill = min(tokens, 128) * self._attention_bytes_per_token(longest)
        prefill += self._weights.config.num_heads * self._kv_copy_bytes(longest)
        needed = tokens * self._activation_bytes_per_token
        needed += max(prefill, self._decode_attention_bytes(longest, decode_tokens))
        if self.capture:
            needed += self._graph_bytes(longest, decode_tokens) + self._output_bytes(decode_tokens)
        return needed

    def _graph_bytes(self, longest: int, decode_tokens: int) -> int:
        """Bytes of the memory that all captured graphs share: those of the largest one."""
        logits = decode_tokens * self._weights.vocab_size * self._weights.shape.dtype.itemsize
        activations = decode_tokens * self._activation_bytes_per_token
        attention = self._decode_attention_bytes(longest, decode_tokens)
        return activations + attention + logits + self._output_bytes(decode_tokens)

    def _output_bytes(self, rows: int) -> int:
        return 4 * rows * (self._weights.vocab_size + self._weights.hidden_size)

    def _decode_attention_bytes(self, longest: int, decode_tokens: int) -> int:
        kv_copies = self._weights.config.num_kv_heads * self._kv_copy_bytes(longest)
        return decode_tokens * (self._attention_bytes_per_token(longest) + kv_copies)

    @property
    def _activation_bytes_per_token(self) -> int:
        """Bytes of one token's activations in a layer."""
        weights, config = self._weights, self._weights.config
        numbers = 4 * weights.hidden_size + 3 * weights.intermediate_size + 4 * config.num_heads * config.head_dim
        return numbers * weights.shape.dtype.itemsize

    def _attention_bytes_per_token(self, longest: int) -> int:
        """Bytes of one token's attention: float32 scores and weights, a copy in the model's dtype, and the mask."""
        config, size = self._weights.config, self._weights.shape.dtype.itemsize
        return longest * (config.num_heads * (8 + size) + 5 * config.num_kv_heads)

    def _kv_copy_bytes(self, longest: int) -> int:
        """Bytes of a copy of one head's keys and values, gathered or repeated for the query heads of a group."""
        return 2 * longest * self._weights.config.head_dim * self._weights.shape.dtype.itemsize

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
        device = self._weights.embedding.device
        rows = torch.tensor(logit_rows(feeds, alone + apart), dtype=torch.long, device=device)
        given = None if apart else self._recorded(groups)
        if given is None:
            logits, hidden = self._run_layers([group.singles(device) for group in groups], apart, rows)
        else:
            logits, hidden = given[0][rows], given[1][rows]
        for feed in alone:
            feed.cache.advance(1, positions_written=True)
        return logits, hidden

    def _recorded(self, groups: Sequence[Group]) -> tuple[Tensor, Tensor] | None:
        """Logits and states of all tokens of a pass over slots of one store; None if it is to be carried out anew."""
        store, kinds = groups[0].store, tuple(group.kind for group in groups)
        if self.capture is None or any(group.store is not store for group in groups):
            return None

        def run(numbers: Tensor) -> tuple[Tensor, Tensor]:
            inputs = torch.split(numbers, [kind.sequences for kind in kinds])
            singles = [
                DecodeBatch(store, kind.divided, part, kind.within) for kind, part in zip(kinds, inputs, strict=True)
            ]
            return self._run_layers(singles, (), None)

        if store not in self._recordings:
            device = self._weights.embedding.device
            logits, hidden = (
                torch.empty(store.num_slots, size, dtype=torch.float32, device=device)
                for size in (self._weights.vocab_size, self._weights.hidden_size)
            )
            room = self._graph_bytes(store.shape.max_capacity, store.num_slots)
            self._recordings[store] = CudaGraphCache(self.capture, logits, hidden, room)
        try:
            return self._recordings[store].capture_fn(kinds, [own for group in groups for own in group.numbers], run)
        except RecordingError as error:
            self.capture = None
            self._recordings.clear()
            told = f"decoding will be slow: its passes could not be recorded ({error})"
            warnings.warn(told, MinseekWarning, stacklevel=2)
            return None

    def _run_layers(
        self, singles: Sequence[DecodeBatch], apart: Sequence[SequenceChunk], wanted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A pass over single tokens and behind them those of other feeds: of the wanted rows, or of all."""
        weights, sets = self._weights, _placed(singles, apart)
        tokens = [own.tokens for own in singles]
        if apart:
            others = [token for feed in apart for token in feed.tokens]
            tokens.append(torch.tensor(others, device=weights.embedding.device))
        for own in singles:
            own.write_positions()
        hidden = F.embedding(torch.cat(tokens), weights.embedding)
        for index, layer in enumerate(weights.layers):
            hidden = hidden + self._attention(index, layer, self._norm(hidden, layer.attn_norm), sets)
            normed = self._norm(hidden, layer.mlp_norm)
            gated = F.silu(F.linear(normed, layer.gate, layer.gate_bias)) * F.linear(normed, layer.up, layer.up_bias)
            hidden = hidden + F.linear(gated, layer.down, layer.down_bias)
        last = self._norm(hidden, weights.norm)
        for own, rows in sets.singles:
            if (before := own.last_hidden) is not None:
                own.record_surprise(self._surprise.of(own.tokens, before), last[rows].float())
        for feed, rows in sets.apart:
            feed.cache.advance(len(feed.tokens))
            if needs_surprise(feed.cache):
                self._surprise.note([feed], last[rows])
        if wanted is not None:
            last = last[wanted]
        return F.linear(last, weights.lm_head, weights.lm_head_bias).float(), last.float()

    def _attention(self, index: int, layer: LayerWeights, x: Tensor, sets: _Sets) -> Tensor:
        dim, scale = self._weights.shape.head_dim, self._weights.config.attention_scale
        q = F.linear(x, layer.q, layer.q_bias).view(len(x), -1, dim)
        k = F.linear(x, layer.k, layer.k_bias).view(len(x), -1, dim)
        v = F.linear(x, layer.v, layer.v_bias).view(len(x), -1, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = torch.empty_like(q)
        for singles, rows in sets.singles:
            singles.record_queries(index, q[rows])
            rotated = singles.rotated(torch.cat((q[rows], k[rows]), 1))
            queries, new = rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]
            keys, values = singles.append(index, new, v[rows])
            unseen = singles.attention_mask(index, layer.window)
            out[rows], weights = decode_attention(queries, keys, values, unseen, scale=scale)
            singles.observe(index, weights)
        for feed, rows in sets.apart:
            mine = (t[rows].transpose(0, 1) for t in (q, k, v))
            out[rows] = _attend_feed(index, feed, *mine, scale=scale, window=layer.window).transpose(0, 1)
        return F.linear(out.view(len(x), -1), layer.o, layer.o_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._weights.config.rms_norm_eps)


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
    if cache.observer is not None:
        cache.observer.record_queries(index, q)
    queries = rotate(q, *cache.rotary.at(cache.position, count))
    keys, values = cache.append(index, k, v)
    if cache.observer is None:
        return attend(queries, keys, values, scale=scale, window=window)
    at = cache.positions[index][:, : keys.shape[1]]
    given, weights = attention_with_weights(queries, keys, values, at, scale=scale, window=window)
    cache.observer.observe(index, weights)
    return given
