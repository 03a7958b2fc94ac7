"""Surprise of tokens under the model, computed without the output layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from minseek.cache import KVCache
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.matrix import float_rows, rows_at
from minseek.models.weights import DecoderWeights

_MEAN_ROWS = 1024


def needs_surprise(cache: KVCache) -> bool:
    """True if the policy of the cache reads the surprise of its tokens."""
    return cache.observer is not None and cache.observer.last_hidden is not None


class Surprise:
    """Surprise of a token: the mean logit over the vocabulary minus the token's logit."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._lm_head, self._bias = weights.lm_head, weights.lm_head_bias

    @cached_property
    def _mean(self) -> Tensor:
        total = len(self._lm_head)  # all rows at once would be copied to float32
        parts = [float_rows(self._lm_head, i, min(i + _MEAN_ROWS, total)).sum(0) for i in range(0, total, _MEAN_ROWS)]
        return torch.stack(parts).sum(0) / total

    @cached_property
    def _mean_bias(self) -> Tensor | None:
        return None if self._bias is None else self._bias.mean(dtype=torch.float32)

    def of(self, tokens: Tensor, previous_hidden: Tensor) -> Tensor:
        """Surprise [T], float32, of tokens [T] given the last hidden states of their predecessors, [T, hidden]."""
        surprise = (previous_hidden * (self._mean - rows_at(self._lm_head, tokens).float())).sum(-1)
        if self._bias is not None and self._mean_bias is not None:
            surprise += self._mean_bias - self._bias[tokens].float()
        return surprise

    def record(self, chunks: Sequence[SequenceChunk], hidden: Tensor) -> None:
        """Give the observers of the chunks' caches the surprise of the new tokens.

        hidden: last hidden states of all tokens of these chunks, in their order, [T, hidden].
        """
        if not chunks:
            return
        counts = [len(chunk.tokens) for chunk in chunks]
        firsts = [end - count for end, count in zip(accumulate(counts), counts, strict=True)]
        hidden = hidden.float()
        previous = hidden.roll(1, 0)
        observers = [chunk.cache.observer for chunk in chunks]
        stored = [o.last_hidden for o in observers if o is not None and o.last_hidden is not None]
        previous[firsts] = torch.stack(stored)
        tokens = torch.tensor([token for chunk in chunks for token in chunk.tokens], device=hidden.device)
        surprises = torch.split(self.of(tokens, previous), counts)
        for observer, surprise, first, count in zip(observers, surprises, firsts, counts, strict=True):
            if observer is not None:
                observer.record_surprise(surprise, hidden[first + count - 1])
