"""The forward pass of one sequence: from new tokens and a cache to the next token's logits."""

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

_CHUNK = 512  # tokens read at once: enough for the products to be fast, and little memory for activations
_BYTES_PER_THREAD = 4 * 2**20  # of weights: with less to read, threads cost more in meeting than they save
_FEW = 2  # up to so many tokens of one sequence, single steps in C beat a pass


class Decoder:
    """Feeds tokens through a model's weights, with keys and values in a `ThoughtCache` or in `Slot`s.

    transformers rotates keys before its cache sees them and takes several small operations where one does; owning
    these lines is what makes keys movable and a step as fast as the memory. Logits are tested to equal those of the
    unmodified model.
    """

    def __init__(self, weights: DecoderWeights) -> None:
        self.weights = weights
        self._surprise = Surprise(weights)
        self._native: NativeForward | None = None
        self.backend = "PyTorch"
        device = weights.embedding.device
        self._plain = TorchForward(weights, self._surprise, graph_capturer(device))
        if device.type == "cpu":
            status = native_status(weights.shape.dtype)
            if status.library is not None:
                threads = min(torch.get_num_threads(), 1 + weights.weight_bytes // _BYTES_PER_THREAD)
                self._native = NativeForward(status.library, weights, threads)
                self.backend = "C"

    @property
    def records(self) -> bool:
        """Whether single tokens for caches in slots are fed in recorded passes."""
        return self._native is None and self._plain.capture is not None

    def feed(self, tokens: Sequence[int], cache: KVCache) -> Tensor:
        """Append tokens to the cache; the logits that follow the last one, float32, [vocabulary].

        Raises
        ------
        CacheFullError
            If the cache may not grow so far.
        """
        self._check(tokens)
        cache.reserve(len(tokens))
        if self._native is not None and len(tokens) <= _FEW and cache.observer is None:
            for token in tokens[:-1]:
                self._native.step(token, cache, logits=False)
            logits = self._native.step(tokens[-1], cache, logits=True)
            assert logits is not None
            return logits
        chunks = [tokens[start : start + _CHUNK] for start in range(0, len(tokens), _CHUNK)]
        for chunk in chunks[:-1]:
            self.forward_batch([SequenceChunk(chunk, cache)])
        return self.forward_batch([SequenceChunk(chunks[-1], cache, wanted=1)])[0][0]

    @torch.no_grad()
    def forward_batch(self, feeds: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        """One pass over new tokens of several sequences, prompts and single steps side by side.

        Returns
        -------
        logits, hidden : Tensor
            Of the tokens that are wanted, in order: float32, [n, vocabulary] and [n, hidden] (after the last norm).
        """
        for feed in feeds:
            self._check(feed.tokens)
        return self._plain.forward(feeds) if self._native is None else self._feed_native(self._native, feeds)

    def _feed_native(self, native: NativeForward, feeds: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        asked, known, asking = list[int](), list[int](), list[tuple[SequenceChunk, range]]()
        columns = 0
        for feed in feeds:
            end = columns + len(feed.tokens)
            asked += range(end - feed.wanted, end)
            if needs_surprise(feed.cache):
                known += range(columns, end - feed.wanted)
                asking.append((feed, range(columns, end)))
            columns = end
        logits, hidden = native.forward(feeds, asked, known)
        row = {column: row for row, column in enumerate((*asked, *known))}
        states = hidden[[row[column] for _, own in asking for column in own]]
        self._surprise.note([feed for feed, _ in asking], states)
        return logits, hidden[: len(asked)]

    def activation_bytes(self, tokens: int, longest: int, wanted: int) -> int:
        """Bytes of activations and logits of a pass; `longest` is how many pairs the longest sequence has then."""
        surprise = (tokens + 4 * 128) * self.weights.hidden_size * 4
        outputs = wanted * self.weights.vocab_size * 4 + surprise
        if self._native is not None:
            return self._native.memory(tokens, longest) + outputs
        return self._plain.memory(tokens, longest, wanted) + outputs

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("a forward pass needs at least one token of each sequence")
        check_token_ids(tokens, len(self.weights.embedding))
