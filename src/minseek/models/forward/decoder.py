"""The forward pass: from new tokens and their caches to logits, on the CPU kernels or in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minseek.cache import KVCache
from minseek.models.forward.chunk import SequenceChunk, check_token_ids
from minseek.models.forward.cpu_backend import NativeForward
from minseek.models.forward.cuda_graphs import graph_capturer
from minseek.models.forward.surprise import Surprise, needs_surprise
from minseek.models.forward.torch_backend import TorchForward
from minseek.models.weights import DecoderWeights
from minseek.native import native_status

PREFILL_CHUNK = 512  # tokens of one prefill pass: enough for fast GEMMs, with little memory for activations
_WEIGHT_BYTES_PER_THREAD = 4 * 2**20  # with fewer bytes to read, a thread costs more at barriers than it saves
_MAX_STEPS = 2  # up to this many tokens of one sequence, single C steps are faster than a batched pass


class Decoder:
    """Runs tokens through a model's weights, with keys and values in a `ThoughtCache` or in `Slot`s.

    transformers rotates keys before its cache sees them, and takes several small operations where one suffices. Our own
    forward pass makes keys movable and a decoding step as fast as memory allows. Tests compare its logits with the
    unmodified model's.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        self.weights = weights
        self._surprise = Surprise(weights)
        self._native: NativeForward | None = None
        self.backend = "PyTorch"
        device = weights.device
        self._torch = TorchForward(weights, self._surprise, graph_capturer(device))
        if device.type == "cpu":
            status = native_status(weights.shape.dtype)
            if status.library is not None:
                threads = min(torch.get_num_threads(), 1 + weights.weight_bytes // _WEIGHT_BYTES_PER_THREAD)
                self._native = NativeForward(status.library, weights, threads)
                self.backend = "C"

    @property
    def uses_cuda_graphs(self) -> bool:
        """True if single tokens for caches in slots run as CUDA graphs."""
        return self._native is None and self._torch.capture is not None

    @property
    def workspace(self) -> tuple[Tensor, ...]:
        """Memory that passes leave allocated for the next one."""
        return () if self._native is None else self._native.workspace

    def forward(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Append tokens to one cache; the logits after the last token, float32, [vocab].

        There are two C forward passes, because one token of one sequence is bound by memory and several are bound by
        arithmetic: `NativeForward.step` streams the weights once with activations in float32, and threads share the
        attention of each head; in `NativeForward.forward` tokens are columns, and threads share sequences and heads.

        Raises
        ------
        CacheFullError
            If the cache cannot grow that far.
        """
        self._check(tokens)
        cache.reserve(len(tokens))
        if self._native is not None and len(tokens) <= _MAX_STEPS and cache.observer is None:
            for token in tokens[:-1]:
                self._native.step(token, cache, logits=False)
            logits = self._native.step(tokens[-1], cache, logits=True)
            assert logits is not None
            return logits
        chunks = [tokens[start : start + PREFILL_CHUNK] for start in range(0, len(tokens), PREFILL_CHUNK)]
        for chunk in chunks[:-1]:
            self.forward_batch([SequenceChunk(chunk, cache)])
        return self.forward_batch([SequenceChunk(chunks[-1], cache, num_logits=1)])[0][0]

    @torch.no_grad()
    def forward_batch(self, chunks: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        """One pass over new tokens of several sequences, prefill and decoding together.

        Returns
        -------
        logits, hidden : Tensor
            Float32, [n, vocab] and [n, hidden] (after the last norm): for the last `num_logits` tokens of each chunk,
            in order.
        """
        for chunk in chunks:
            self._check(chunk.tokens)
        return self._torch.forward(chunks) if self._native is None else self._forward_native(self._native, chunks)

    def _forward_native(self, native: NativeForward, chunks: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        logit_columns, hidden_columns = list[int](), list[int]()
        surprising = list[tuple[SequenceChunk, range]]()
        columns = 0
        for chunk in chunks:
            end = columns + len(chunk.tokens)
            logit_columns += range(end - chunk.num_logits, end)
            if needs_surprise(chunk.cache):
                hidden_columns += range(columns, end - chunk.num_logits)
                surprising.append((chunk, range(columns, end)))
            columns = end
        logits, hidden = native.forward(chunks, logit_columns, hidden_columns)
        row_of = {column: row for row, column in enumerate((*logit_columns, *hidden_columns))}
        rows = [row_of[column] for _, own in surprising for column in own]
        self._surprise.record([chunk for chunk, _ in surprising], hidden[rows])
        return logits, hidden[: len(logit_columns)]

    def activation_bytes(self, tokens: int, longest: int, num_logits: int) -> int:
        """Bytes of activations and logits of a pass; `longest` is the number of pairs of the longest sequence then."""
        surprise = (tokens + 4 * 128) * self.weights.hidden_size * 4
        outputs = num_logits * self.weights.vocab_size * 4 + surprise
        if self._native is not None:
            return self._native.workspace_bytes(tokens, longest) + outputs
        return self._torch.workspace_bytes(tokens, longest, num_logits) + outputs

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a forward pass needs at least one token of each sequence")
        check_token_ids(tokens, len(self.weights.embedding))
