"""The forward pass in PyTorch, on any device."""

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
from minseek.models.forward.cuda_graphs import CaptureError, CaptureFn, CudaGraphCache
from minseek.models.forward.decode_groups import DecodeGroup, logit_rows, split_decode_tokens
from minseek.models.forward.surprise import Surprise, needs_surprise
from minseek.models.matrix import linear, rows_at
from minseek.models.weights import DecoderWeights, LayerWeights


class TorchForward:
    """PyTorch backend: GEMMs over all tokens of a pass, attention over each `DecodeBatch` at once.

    Parameters
    ----------
    weights : DecoderWeights
    surprise : Surprise
    capture : CaptureFn or None
        Captures passes that only decode as CUDA graphs; None runs them operation by operation.
    """

    def __init__(self, weights: DecoderWeights, surprise: Surprise, capture: CaptureFn | None) -> None:
        self._weights, self._surprise, self.capture = weights, surprise, capture
        self._graphs: WeakKeyDictionary[SlotMemory, CudaGraphCache] = WeakKeyDictionary()

    def workspace_bytes(self, tokens: int, longest: int, decode_tokens: int) -> int:
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

    def forward(self, chunks: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        """Append the tokens of each chunk to its cache.

        Returns
        -------
        logits, hidden : Tensor
            Float32, [n, vocab] and [n, hidden] (after the last norm): for the last `num_logits` tokens of each chunk,
            in order.
        """
        for chunk in chunks:
            chunk.cache.reserve(len(chunk.tokens))
        groups, others = split_decode_tokens(chunks)
        decoding = [chunk for group in groups for chunk in group.chunks]
        device = self._weights.device
        rows = torch.tensor(logit_rows(chunks, decoding + others), dtype=torch.long, device=device)
        outputs = None if others else self._run_graph(groups)
        if outputs is None:
            logits, hidden = self._run_layers([group.decode_batch(device) for group in groups], others, rows)
        else:
            logits, hidden = outputs[0][rows], outputs[1][rows]
        for chunk in decoding:
            chunk.cache.advance(1, positions_written=True)
        return logits, hidden

    def _run_graph(self, groups: Sequence[DecodeGroup]) -> tuple[Tensor, Tensor] | None:
        """Logits and hidden states of all tokens from a CUDA graph; None if the pass must run eagerly."""
        memory, key = groups[0].memory, tuple(group.graph_key for group in groups)
        if self.capture is None or any(group.memory is not memory for group in groups):
            return None

        def run(input_rows: Tensor) -> tuple[Tensor, Tensor]:
            split = torch.split(input_rows, [part.batch_size for part in key])
            batches = [
                DecodeBatch(memory, part.partitioned, rows, part.max_kv_len)
                for part, rows in zip(key, split, strict=True)
            ]
            return self._run_layers(batches, (), None)

        if memory not in self._graphs:
            device = self._weights.device
            logits, hidden = (
                torch.empty(memory.num_slots, size, dtype=torch.float32, device=device)
                for size in (self._weights.vocab_size, self._weights.hidden_size)
            )
            workspace_bytes = self._graph_bytes(memory.shape.max_capacity, memory.num_slots)
            self._graphs[memory] = CudaGraphCache(self.capture, logits, hidden, workspace_bytes)
        try:
            return self._graphs[memory].run(key, [row for group in groups for row in group.input_rows], run)
        except CaptureError as error:
            self.capture = None
            self._graphs.clear()
            message = f"decoding will be slow: its CUDA graphs could not be captured ({error})"
            warnings.warn(message, MinseekWarning, stacklevel=2)
            return None

    def _run_layers(
        self, batches: Sequence[DecodeBatch], others: Sequence[SequenceChunk], output_rows: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run decode batches and, after them, other chunks; outputs of `output_rows`, or of all rows."""
        weights, layout = self._weights, _lay_out(batches, others)
        tokens = [batch.tokens for batch in batches]
        if others:
            ids = [token for chunk in others for token in chunk.tokens]
            tokens.append(torch.tensor(ids, device=weights.device))
        for batch in batches:
            batch.write_positions()
        hidden = rows_at(weights.embedding, torch.cat(tokens)).to(weights.shape.dtype)
        for index, layer in enumerate(weights.layers):
            hidden = hidden + self._attention(index, layer, self._norm(hidden, layer.attn_norm), layout)
            normed = self._norm(hidden, layer.mlp_norm)
            gated = F.silu(linear(normed, layer.gate, layer.gate_bias)) * linear(normed, layer.up, layer.up_bias)
            hidden = hidden + linear(gated, layer.down, layer.down_bias)
        hidden = self._norm(hidden, weights.norm)
        for batch, rows in layout.batches:
            if (previous := batch.last_hidden) is not None:
                batch.record_surprise(self._surprise.of(batch.tokens, previous), hidden[rows].float())
        for chunk, rows in layout.others:
            chunk.cache.advance(len(chunk.tokens))
            if needs_surprise(chunk.cache):
                self._surprise.record([chunk], hidden[rows])
        if output_rows is not None:
            hidden = hidden[output_rows]
        return linear(hidden, weights.lm_head, weights.lm_head_bias).float(), hidden.float()

    def _attention(self, index: int, layer: LayerWeights, x: Tensor, layout: _RowLayout) -> Tensor:
        dim, scale = self._weights.shape.head_dim, self._weights.config.attention_scale
        q = linear(x, layer.q, layer.q_bias).view(len(x), -1, dim)
        k = linear(x, layer.k, layer.k_bias).view(len(x), -1, dim)
        v = linear(x, layer.v, layer.v_bias).view(len(x), -1, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = torch.empty_like(q)
        for batch, rows in layout.batches:
            batch.record_queries(index, q[rows])
            rotated = batch.rotated(torch.cat((q[rows], k[rows]), 1))
            queries, new_keys = rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]
            keys, values = batch.append(index, new_keys, v[rows])
            mask = batch.attention_mask(index, layer.window)
            out[rows], weights = decode_attention(queries, keys, values, mask, scale=scale)
            batch.observe(index, weights)
        for chunk, rows in layout.others:
            qkv = (t[rows].transpose(0, 1) for t in (q, k, v))
            out[rows] = _chunk_attention(index, chunk, *qkv, scale=scale, window=layer.window).transpose(0, 1)
        return linear(out.view(len(x), -1), layer.o, layer.o_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self._weights.config.rms_norm_eps)


@dataclass(frozen=True)
class _RowLayout:
    """Rows of a pass that belong to each decode batch and to each other chunk."""

    batches: list[tuple[DecodeBatch, slice]]
    others: list[tuple[SequenceChunk, slice]]


def _lay_out(batches: Sequence[DecodeBatch], others: Sequence[SequenceChunk]) -> _RowLayout:
    counts = [len(batch.tokens) for batch in batches] + [len(chunk.tokens) for chunk in others]
    rows = [slice(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]
    split = len(batches)
    return _RowLayout(list(zip(batches, rows[:split], strict=True)), list(zip(others, rows[split:], strict=True)))


def _chunk_attention(
    index: int, chunk: SequenceChunk, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
) -> Tensor:
    """Attention [H * G, T, D] of one sequence's new tokens in one layer; q and k are not rotated yet."""
    cache, count = chunk.cache, len(chunk.tokens)
    if cache.observer is not None:
        cache.observer.record_queries(index, q)
    queries = rotate(q, *cache.rotary.at(cache.position, count))
    keys, values = cache.append(index, k, v)
    if cache.observer is None:
        return attend(queries, keys, values, scale=scale, window=window)
    positions = cache.positions[index][:, : keys.shape[1]]
    out, weights = attention_with_weights(queries, keys, values, positions, scale=scale, window=window)
    cache.observer.observe(index, weights)
    return out
