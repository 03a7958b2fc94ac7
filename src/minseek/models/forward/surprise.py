"""How unexpected the tokens of a text were to the model, without its output layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor

from minseek.cache import KVCache
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.weights import DecoderWeights


def needs_surprise(cache: KVCache) -> bool:
    """True if the policy of the cache reads the surprise of its tokens."""
    return cache.observer is not None and cache.observer.last_hidden is not None


class Surprise:
    """How much less a model expected each token than a token of the vocabulary on average: a difference of logits."""

    def __init__(self, weights: DecoderWeights) -> None:
        self._head, self._bias = weights.lm_head, weights.lm_head_bias

    @cached_property
    def _mean(self) -> Tensor:
        return self._head.mean(0, dtype=torch.float32)

    @cached_property
    def _mean_bias(self) -> Tensor | None:
        return None if self._bias is None else self._bias.mean(dtype=torch.float32)

    def of(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Of tokens [T], float32 [T]; before: the last hidden state of the token in front of each, [T, hidden]."""
        surprise = (before * (self._mean - self._head[tokens].float())).sum(-1)
        if self._bias is not None and self._mean_bias is not None:
            surprise += self._mean_bias - self._bias[tokens].float()
        return surprise

    def note(self, feeds: Sequence[SequenceChunk], states: Tensor) -> None:
        """Tell caches that ask for it how surprising their new tokens were.

        feeds: whose caches ask. states: the last hidden states of all their tokens, in that order, [T, hidden].
        """
        if not feeds:
            return
        counts = [len(feed.tokens) for feed in feeds]
        firsts = [end - count for end, count in zip(accumulate(counts), counts, strict=True)]
        states = states.float()
        before = states.roll(1, 0)
        observers = [feed.cache.observer for feed in feeds]
        before[firsts] = torch.stack([o.last_hidden for o in observers if o is not None and o.last_hidden is not None])
        tokens = torch.tensor([token for feed in feeds for token in feed.tokens], device=states.device)
        surprise = self.of(tokens, before)
        for observer, own, first, count in zip(observers, torch.split(surprise, counts), firsts, counts, strict=True):
            if observer is not None:
                observer.record_surprise(own, states[first + count - 1])
