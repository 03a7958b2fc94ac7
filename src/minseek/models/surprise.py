"""How unexpected the tokens of a text were to the model, without its output layer."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from minseek.models.feed import Feed
from minseek.models.parts import DecoderParts


class Surprise:
    """How much less a model expected each token than a token of the vocabulary on average: a difference of logits."""

    def __init__(self, parts: DecoderParts) -> None:
        self._head, self._bias = parts.head, parts.head_bias

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

    def note(self, feed: Feed, states: Tensor) -> None:
        """Tell a cache that asks for it how surprising its new tokens were.

        states: their last hidden states, [T, hidden].
        """
        if feed.cache.ahead is None:
            return
        states = states.float()
        before = torch.cat((feed.cache.ahead[None], states[:-1]))
        tokens = torch.tensor(feed.tokens, device=states.device)
        feed.cache.remember_surprise(self.of(tokens, before), states[-1])
