"""What the engine runs: a job says what is fed next, and is told the logits that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from minseek.cache import Pairs, Slot
from minseek.decode import Sampler, Sampling, TextStream
from minseek.errors import InputError
from minseek.models import Model


class Job(Protocol):
    """One sequence's course through a slot.

    Attributes
    ----------
    evicts : bool
        Whether the slot's policy may take pairs from it; a job that may not ends by itself before its slot is full.
    cache : Pairs
        From `begin` on, where its pairs go: the slot, or a cache of another kind over the slot's memory.
    """

    evicts: bool

    @property
    def cache(self) -> Pairs: ...  # a property, since a job may promise a particular kind

    def begin(self, slot: Slot) -> Sequence[int]:
        """Take an empty slot; tokens to feed first."""

    def proceed(self, logits: Tensor) -> Sequence[int]:
        """Tokens to feed next, having fed the last ones; none ends the job. logits: [vocabulary]."""


@dataclass(frozen=True)
class CompletionStats:
    """Figures of one completion.

    Attributes
    ----------
    prompt_tokens, new_tokens : int
        What was read and written.
    evictions : int
        How often the slot was brought back to its cap.
    reencodings : int
        How often positions were made contiguous because the sequence reached the end of the model's context.
    """

    prompt_tokens: int
    new_tokens: int
    evictions: int
    reencodings: int


@dataclass(frozen=True)
class Completion:
    """What `minseek.generate` returns for each prompt.

    Attributes
    ----------
    text : str
        The new text, without the token or the stop string that ended it.
    tokens : list of int
        The new tokens, without one that ends the turn.
    finish_reason : str
        "stop" (the model ended its turn, or a stop string came) or "length".
    stats : CompletionStats
        Figures.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stats: CompletionStats


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple.

    Raises
    ------
    TypeError, InputError
        If it is one string, or one of them is empty.
    """
    if isinstance(stop, str) or not all(isinstance(text, str) for text in stop):
        raise TypeError(f"stop must be a sequence of texts, not {stop!r}: put it into a list")
    if not all(stop):
        raise InputError(f"a stop string must not be empty: {list(stop)!r} would end everything at once")
    return tuple(stop)


class Generation:
    """Plain generation from a prompt."""

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
        evicts: bool = True,
        ignore_end: bool = False,
    ) -> None:
        self._model, self.prompt, self.evicts = model, prompt, evicts
        self._limit, self._stop = max_new_tokens, check_stop(stop)
        self._stream = TextStream(model.decode)
        self._sampler = Sampler(sampling)
        self._ends = frozenset() if ignore_end else model.end_ids
        self.tokens: list[int] = []
        self.finish_reason = "length"
        self._cut = False
        self._text = ""  # as far as stop strings were looked for in it

    def begin(self, slot: Slot) -> Sequence[int]:
        """The prompt."""
        self.cache: Slot = slot
        self._figures = (0, 0)
        return self.prompt

    def proceed(self, logits: Tensor) -> Sequence[int]:
        """The next token."""
        self._figures = self.cache.evictions, self.cache.reencodings  # the slot may soon be another's
        token = self._sampler.pick(logits)
        if token in self._ends:
            self.finish_reason = "stop"
            return ()
        self.tokens.append(token)
        if self._stop and self._stopped():
            return ()
        return (token,) if len(self.tokens) < self._limit else ()

    def _stopped(self) -> bool:
        before = max(0, len(self._text) - max(map(len, self._stop)) + 1)  # one may have begun earlier
        self._text += self._stream.push(self.tokens[-1])
        found = [at for stop in self._stop if (at := self._text.find(stop, before)) >= 0]
        if found:
            self._text, self.finish_reason, self._cut = self._text[: min(found)], "stop", True
        return bool(found)

    def completion(self) -> Completion:
        """What came of it."""
        text = self._text if self._cut else self._model.decode(self.tokens)
        stats = CompletionStats(len(self.prompt), len(self.tokens), *self._figures)
        return Completion(text, self.tokens, self.finish_reason, stats)
