"""The forward pass in C over a decoder's weights."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from minseek.cache import KVCache
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.weights import DecoderWeights

_LAYER_FIELDS = (
    *("attn_norm", "q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm", "k_norm"),
    *("mlp_norm", "gate", "up", "down", "gate_bias", "up_bias", "down_bias"),
)


_SEQUENCE_SIZES = ("rows", "first", "position", "recent", "asked", "block")


class _Layer(Structure):
    _fields_ = [(name, c_void_p) for name in _LAYER_FIELDS] + [("window", c_int32), ("reserved", c_int32)]


class _Decoder(Structure):
    _fields_ = (
        [
            (name, c_int32)
            for name in ("layers", "hidden", "query_heads", "kv_heads", "head_dim", "inner", "vocab", "threads")
        ]
        + [("eps", c_float), ("scale", c_float)]
        + [(name, c_void_p) for name in ("embedding", "norm", "head", "head_bias")]
        + [("layer", POINTER(_Layer))]
    )


class _Sequence(Structure):
    _fields_ = (
        [(name, c_int32) for name in _SEQUENCE_SIZES]
        + [(name, POINTER(c_int32)) for name in ("length", "capacity")]
        + [
            (name, POINTER(c_void_p))
            for name in ("keys", "values", "raw", "positions", "received", "latest", "queries")
        ]
    )


class NativeForward:
    """Feeds tokens through a decoder whose weights lie in main memory: one of one sequence, or many of many.

    One token of one sequence takes `step`, which keeps activations in float32 and is as fast as the memory; several
    take `forward`, where tokens are the columns of matrix products and no column depends on another.
    """

    def __init__(self, library: ctypes.CDLL, parts: DecoderWeights, threads: int) -> None:
        self._library = library
        self._parts = parts  # keeps the weights alive
        layers = (_Layer * len(parts.layers))()
        for target, layer in zip(layers, parts.layers, strict=True):
            for name in _LAYER_FIELDS:
                weight: Tensor | None = getattr(layer, name)
                setattr(target, name, None if weight is None else weight.data_ptr())
            target.window = layer.window or 0
        sizes = parts.config
        self._decoder = _Decoder(
            *(sizes.num_layers, parts.hidden_size, sizes.num_heads, sizes.num_kv_heads, sizes.head_dim),
            *(parts.intermediate_size, parts.vocab_size, threads, sizes.rms_norm_eps, sizes.attention_scale),
            *(parts.embedding.data_ptr(), parts.norm.data_ptr()),
            *(parts.lm_head.data_ptr(), None if parts.lm_head_bias is None else parts.lm_head_bias.data_ptr(), layers),
        )
        self._scratch = _floats(library.scratch_floats(ctypes.byref(self._decoder)))
        self._memory = _floats(0)
        self._lock = threading.Lock()  # sessions of a model share the scratch, and ctypes lets other threads run
        self._described: WeakKeyDictionary[KVCache, tuple[int, _Sequence]] = WeakKeyDictionary()

    def step(self, token: int, cache: KVCache, *, logits: bool) -> Tensor | None:
        """Append one token to the cache; its logits [vocabulary], float32, if they are wanted."""
        with self._lock:
            cache.reserve(1)  # the C code writes where it is told to
            cos, sin = cache.rotary.at(cache.position, 1)
            out = _floats(self._parts.vocab_size) if logits else None
            known = self._describe(cache)
            self._library.step(
                *(ctypes.byref(self._decoder), c_int32(token), c_int32(cache.length), c_int32(cache.capacities[0])),
                *(known.keys, known.values, known.raw),
                *(c_void_p(cos.data_ptr()), c_void_p(sin.data_ptr()), c_void_p(self._scratch.data_ptr())),
                c_void_p(None if out is None else out.data_ptr()),
            )
            cache.advance(1)
            return out

    def memory(self, columns: int, longest: int) -> int:
        """Bytes that a pass of so many tokens needs, the longest sequence having so many pairs."""
        return int(self._library.forward_bytes(ctypes.byref(self._decoder), c_int64(columns), c_int64(longest)))

    def forward(
        self, feeds: Sequence[SequenceChunk], asked: Sequence[int], known: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Append the tokens of each feed to its cache.

        Parameters
        ----------
        feeds : sequence of SequenceChunk
            Their tokens, one feed's behind the other's, are the columns.
        asked, known : sequence of int
            Columns whose logits are wanted; others whose last hidden states are wanted.

        Returns
        -------
        logits, hidden : Tensor
            Float32, [asked, vocabulary] and [asked + known, hidden] (after the last norm).
        """
        with self._lock:
            return self._forward(feeds, asked, known)

    def _forward(
        self, feeds: Sequence[SequenceChunk], asked: Sequence[int], known: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        sequences = (_Sequence * len(feeds))()
        columns, longest = 0, 0
        tokens: list[int] = []
        angles: list[tuple[Tensor, Tensor]] = []
        for target, feed in zip(sequences, feeds, strict=True):
            cache, count = feed.cache, len(feed.tokens)
            cache.reserve(count)
            ctypes.memmove(ctypes.byref(target), ctypes.byref(self._describe(cache)), ctypes.sizeof(_Sequence))
            target.rows, target.first = count, columns
            target.position = cache.position
            for layer, length in enumerate(cache.lengths):
                target.length[layer] = length
            target.recent, target.asked = count, 0
            if cache.observer is not None:
                target.recent -= cache.observer.num_in_window(count)
                target.asked = cache.observer.query_index
            angles.append(cache.rotary.at(cache.position, count))
            tokens += feed.tokens
            columns += count
            longest = max(longest, cache.length + count)
        needed = self.memory(columns, longest)
        if needed > self._memory.nbytes:
            self._memory = _floats(0)  # frees the old one first
            self._memory = _floats(needed // 4 + 16)
        cos, sin = (torch.cat(parts).contiguous() for parts in zip(*angles, strict=True))
        wanted = (*asked, *known)
        logits = torch.empty(len(asked), self._parts.vocab_size, dtype=torch.float32)
        hidden = torch.empty(len(wanted), self._parts.hidden_size, dtype=torch.float32)
        self._library.forward(
            *(ctypes.byref(self._decoder), (c_int32 * columns)(*tokens), c_int32(columns)),
            *(sequences, c_int32(len(feeds)), c_void_p(cos.data_ptr()), c_void_p(sin.data_ptr())),
            *(c_int32(longest), c_void_p(self._memory.data_ptr())),
            *((c_int32 * len(wanted))(*wanted), c_int32(len(wanted)), c_int32(len(asked))),
            *(c_void_p(logits.data_ptr()), c_void_p(hidden.data_ptr())),
        )
        for feed in feeds:
            feed.cache.advance(len(feed.tokens))
        return logits, hidden

    def _describe(self, cache: KVCache) -> _Sequence:
        """Where the cache lies, found out anew only when it has been allocated anew."""
        known = self._described.get(cache)
        if known is None or known[0] != cache.allocation:
            groups, seen = (cache.keys, cache.values, cache.raw_keys, cache.positions), cache.observer
            counts = ((), (), ()) if seen is None else (seen.attn_sum, seen.attn_window_sum, seen.queries)
            room = (c_int32 * len(cache.keys))(), (c_int32 * len(cache.keys))(*cache.capacities)
            fields = *([0] * len(_SEQUENCE_SIZES)), *room, *map(_addresses, groups + counts)
            known = cache.allocation, _Sequence(*fields)
            known[1].block = seen.queries[0].shape[1] if seen is not None and seen.queries else 0
            self._described[cache] = known
        return known[1]


def _floats(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.float32, device="cpu")


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)) if tensors else None
