"""Penalties on tokens that a sequence already has, and biases on given tokens, applied to the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor


class Penalties:
    """Changes to the logits of one sequence, in vLLM's order: biases, repetition, frequency and presence.

    The sequence is the prompt and the tokens after it, which may be taken away again: a thought that was dropped is
    not penalized.

    Parameters
    ----------
    prompt : sequence of int
        Tokens that count for the repetition penalty only.
    repetition, frequency, presence, bias
        See `minseek.Sampling`.
    """

    def __init__(
        self,
        prompt: Sequence[int] = (),
        *,
        repetition: float = 1,
        frequency: float = 0,
        presence: float = 0,
        bias: Mapping[int, float] | None = None,
    ) -> None:
        self._repetition, self._frequency, self._presence, self._bias = repetition, frequency, presence, bias or {}
        self._prompt = list(prompt) if self._repetition != 1 else []
        self._tokens: list[int] = []
        self._in_prompt: Tensor | None = None  # [vocab], once a vocabulary is known
        self._counts: Tensor | None = None  # [vocab]

    def copy(self) -> Self:
        """Independent copy."""
        copied = copy(self)
        copied._tokens = list(self._tokens)
        copied._counts = None if self._counts is None else self._counts.clone()
        return copied

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the sequence."""
        self._tokens.extend(tokens)
        self._add(tokens, 1)

    def delete(self, start: int, stop: int) -> None:
        """Take away the tokens from `start` to before `stop`, counted from the end of the prompt."""
        self._add(self._tokens[start:stop], -1)
        del self._tokens[start:stop]

    def apply(self, logits: Tensor) -> Tensor:
        """Changed copy of the logits [vocab]."""
        logits = logits.clone()
        if self._bias:
            logits[list(self._bias)] += torch.tensor(list(self._bias.values()))
        if self._counts is None or self._in_prompt is None:
            size = len(logits)
            self._in_prompt = torch.bincount(torch.tensor(self._prompt, dtype=torch.long), minlength=size) > 0
            self._counts = torch.bincount(torch.tensor(self._tokens, dtype=torch.long), minlength=size).float()
        used = self._counts > 0
        if self._repetition != 1:
            penalized = torch.where(logits > 0, logits / self._repetition, logits * self._repetition)
            logits = torch.where(used | self._in_prompt, penalized, logits)
        return logits - self._frequency * self._counts - self._presence * used

    def _add(self, tokens: Sequence[int], count: int) -> None:
        if self._counts is not None and tokens:
            ids = torch.tensor(tokens)
            self._counts.index_add_(0, ids, torch.full((len(ids),), float(count)))
