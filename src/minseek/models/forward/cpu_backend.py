"""The forward pass in C over a decoder's weights."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import byref, c_int32, c_int64, c_void_p
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from minseek.cache import KVCache
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.matrix import Matrix, PackedMatrix
from minseek.models.weights import DecoderWeights
from minseek.native import structs
from minseek.quant.native_rows import weight_matrix


class NativeForward:
    """Runs tokens through a decoder whose weights are in main memory.

    One token of one sequence takes `step`, which keeps activations in float32 and is as fast as the memory; several
    take `forward`, where tokens are the columns of matrix products and no column depends on another.
    """

    def __init__(self, library: ctypes.CDLL, weights: DecoderWeights, threads: int) -> None:
        self._library = library
        self._weights = weights  # keeps the weights alive
        layers = (structs.LayerWeightsStruct * len(weights.layers))()
        for target, layer in zip(layers, weights.layers, strict=True):
            for name in structs.LAYER_MATRICES:
                setattr(target, name, _matrix(getattr(layer, name)))
            for name in structs.LAYER_VECTORS:
                vector: Tensor | None = getattr(layer, name)
                setattr(target, name, None if vector is None else vector.data_ptr())
            target.window = layer.window or 0
        config = weights.config
        self._decoder = structs.DecoderStruct(
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            hidden_size=weights.hidden_size,
            intermediate_size=weights.intermediate_size,
            vocab_size=weights.vocab_size,
            num_threads=threads,
            rms_norm_eps=config.rms_norm_eps,
            attention_scale=config.attention_scale,
            embedding=_matrix(weights.embedding),
            norm=weights.norm.data_ptr(),
            lm_head=_matrix(weights.lm_head),
            lm_head_bias=None if weights.lm_head_bias is None else weights.lm_head_bias.data_ptr(),
            layers=layers,
        )
        self._scratch = _floats(library.scratch_floats(byref(self._decoder)))
        self._workspace = _floats(0)
        self._lock = threading.Lock()  # sessions of a model share the workspace, and ctypes lets other threads run
        self._bound: WeakKeyDictionary[KVCache, tuple[int, structs.SequenceStruct]] = WeakKeyDictionary()

    def step(self, token: int, cache: KVCache, *, logits: bool) -> Tensor | None:
        """Append one token to the cache; return the logits [vocab] after it, float32, if `logits`.

        Raises
        ------
        CacheFullError
            If the cache may not grow.
        """
        with self._lock:
            cache.reserve(1)  # C writes without checking
            cos, sin = cache.rotary.at(cache.position, 1)
            out = _floats(self._weights.vocab_size) if logits else None
            bound = self._bind(cache)
            args = structs.StepArgs(
                *(token, cache.length, cache.capacities[0], 0, bound.keys, bound.values, bound.raw_keys),
                *(cos.data_ptr(), sin.data_ptr(), self._scratch.data_ptr(), None if out is None else out.data_ptr()),
            )
            self._library.step(byref(self._decoder), byref(args))
            cache.advance(1)
            return out

    @property
    def workspace(self) -> tuple[Tensor, ...]:
        """Memory that passes leave allocated for the next one."""
        return self._scratch, self._workspace

    def workspace_bytes(self, columns: int, longest: int) -> int:
        """Bytes of workspace for a pass of that many tokens, the longest sequence having `longest` pairs."""
        return int(self._library.forward_bytes(byref(self._decoder), c_int64(columns), c_int64(longest)))

    def forward(
        self, chunks: Sequence[SequenceChunk], logit_columns: Sequence[int], hidden_columns: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Append the tokens of each chunk to its cache.

        Parameters
        ----------
        chunks : sequence of SequenceChunk
            Columns are their tokens, chunk after chunk.
        logit_columns, hidden_columns : sequence of int
            Columns that get logits, and further ones that get last hidden states only.

        Returns
        -------
        logits, hidden : Tensor
            Float32, [logit_columns, vocab] and [logit_columns + hidden_columns, hidden] (after the last norm).

        Raises
        ------
        CacheFullError
            If a cache may not grow so far.
        MemoryError
            If there is no memory for the activations.
        """
        with self._lock:
            return self._forward(chunks, logit_columns, hidden_columns)

    def _forward(
        self, chunks: Sequence[SequenceChunk], logit_columns: Sequence[int], hidden_columns: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        sequences = (structs.SequenceStruct * len(chunks))()
        columns, longest = 0, 0
        tokens: list[int] = []
        angles: list[tuple[Tensor, Tensor]] = []
        for target, chunk in zip(sequences, chunks, strict=True):
            cache, count = chunk.cache, len(chunk.tokens)
            cache.reserve(count)
            ctypes.memmove(byref(target), byref(self._bind(cache)), ctypes.sizeof(structs.SequenceStruct))
            target.num_tokens, target.first_column = count, columns
            target.position = cache.position
            for layer, length in enumerate(cache.lengths):
                target.lengths[layer] = length
            if cache.observer is not None:
                target.query_index = cache.observer.query_index
                target.window_start = count - cache.observer.num_in_window(count)
            angles.append(cache.rotary.at(cache.position, count))
            tokens += chunk.tokens
            columns += count
            longest = max(longest, cache.length + count)
        needed = self.workspace_bytes(columns, longest)
        if needed > self._workspace.nbytes:
            self._workspace = _floats(0)  # frees the old one first
            self._workspace = _floats(needed // 4 + 16)
        cos, sin = (torch.cat(each).contiguous() for each in zip(*angles, strict=True))
        outputs = (*logit_columns, *hidden_columns)
        logits = _floats(len(logit_columns), self._weights.vocab_size)
        hidden = _floats(len(outputs), self._weights.hidden_size)
        args = structs.ForwardArgs(
            tokens=(c_int32 * columns)(*tokens),
            sequences=sequences,
            cosine=cos.data_ptr(),
            sine=sin.data_ptr(),
            memory=self._workspace.data_ptr(),
            output_columns=(c_int32 * len(outputs))(*outputs),
            logits=logits.data_ptr(),
            hidden=hidden.data_ptr(),
            num_columns=columns,
            num_sequences=len(chunks),
            max_kv_len=longest,
            num_outputs=len(outputs),
            num_logits=len(logit_columns),
        )
        self._library.forward(byref(self._decoder), byref(args))
        for chunk in chunks:
            chunk.cache.advance(len(chunk.tokens))
        return logits, hidden

    def _bind(self, cache: KVCache) -> structs.SequenceStruct:
        """The cache's tensors for C, looked up again only after they have been reallocated."""
        bound = self._bound.get(cache)
        if bound is None or bound[0] != cache.allocation:
            observer, layers = cache.observer, len(cache.keys)
            sequence = structs.SequenceStruct(
                lengths=(c_int32 * layers)(),
                capacities=(c_int32 * layers)(*cache.capacities),
                keys=_addresses(cache.keys),
                values=_addresses(cache.values),
                raw_keys=_addresses(cache.raw_keys),
                positions=_addresses(cache.positions),
            )
            if observer is not None:
                sequence.attn_sum = _addresses(observer.attn_sum)
                sequence.attn_window_sum = _addresses(observer.attn_window_sum)
                sequence.queries = _addresses(observer.queries)
                sequence.block = observer.queries[0].shape[1] if observer.queries else 0
            bound = cache.allocation, sequence
            self._bound[cache] = bound
        return bound[1]


def _floats(*sizes: int) -> Tensor:
    try:
        return torch.empty(sizes, dtype=torch.float32, device="cpu")
    except RuntimeError as error:
        raise MemoryError(f"no memory for activations of shape {list(sizes)}") from error


def _matrix(weights: Matrix) -> structs.WeightMatrix:
    if isinstance(weights, PackedMatrix):
        return weight_matrix(weights.packed)
    format_number = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}[weights.dtype]
    return structs.WeightMatrix(weights.data_ptr(), weights.stride(0) * weights.itemsize, format_number, 0)


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)) if tensors else None
