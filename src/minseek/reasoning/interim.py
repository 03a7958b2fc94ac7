"""Interim answers: what a run would have answered after fewer thoughts, and what may follow from that."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator
from typing import Literal, TypeVar

from torch import Tensor

from minseek.errors import InputError
from minseek.reasoning.answer import Answer
from minseek.reasoning.answer_extraction import final_answer
from minseek.reasoning.chain import NeedLogits, RunSteps
from minseek.reasoning.strategies import Strategy

AnswerAfter = Collection[int] | Literal["every"] | None
"""Numbers of induced thoughts (0: the first thought alone) after which an interim answer is wanted."""
T = TypeVar("T")


class Interim:
    """The interim answers of one run: after which thoughts they are due, and what the strategy makes of them.

    Both uses that a strategy can make of them are ours, not the paper's: stop when they have not changed for a while,
    and let them vote. Answers are compared by `final_answer`; one that comes down to nothing agrees with no other, and
    is voted for only if all do.

    Attributes
    ----------
    tokens : int
        Generated for interim answers so far.
    told : bool
        Whether interim answers are told.

    Raises
    ------
    TypeError, InputError
        If `answer_after` is neither "every" nor numbers of 0 or more.
    """

    def __init__(self, strategy: Strategy, answer_after: AnswerAfter) -> None:
        window: int | None = getattr(strategy, "stop_when_stable", None)
        self.decide = window is not None or getattr(strategy, "vote", False)
        self.told = self.decide or answer_after is not None
        self.tokens = 0
        self._after = _checked(answer_after)
        self._votes: bool = getattr(strategy, "vote", False)
        self._latest: deque[str] = deque(maxlen=window or 1)
        self._window = window
        self._counts: dict[str, int] = {}
        self._answers: dict[str, Answer] = {}  # the earliest of those that agree
        self._last: Answer | None = None

    def due(self, index: int) -> bool:
        """Whether one is wanted after that many induced thoughts."""
        return self.decide or self._after is None or index in self._after

    def add(self, answer: Answer) -> None:
        """Take another one into account."""
        if not self.decide:
            return
        gist = final_answer(answer.text)
        self._latest.append(gist)
        self._counts[gist] = self._counts.get(gist, 0) + 1
        self._answers.setdefault(gist, answer)
        self._last = answer

    @property
    def stable(self) -> bool:
        """Whether so many of the latest ones agree that no further thought is wanted."""
        return len(self._latest) == self._window and len(set(self._latest)) == 1 and self._latest[0] != ""

    def chosen(self) -> Answer:
        """The most frequent one, the earliest on a tie, if they vote; else the last one."""
        assert self._last is not None, "the last state of a run is answered, too"
        if not self._votes:
            return self._last
        return self._answers[max(self._counts, key=lambda gist: (gist != "", self._counts[gist]))]


def silent(steps: RunSteps[T]) -> Generator[NeedLogits, Tensor | None, T]:
    """The same steps, telling nothing."""
    logits: Tensor | None = None
    while True:
        try:
            step = steps.send(logits)
        except StopIteration as end:
            given: T = end.value
            return given
        logits = (yield step) if isinstance(step, NeedLogits) else None


def _checked(answer_after: AnswerAfter) -> frozenset[int] | None:
    """The numbers; None for every one."""
    if answer_after is None:
        return frozenset()
    if isinstance(answer_after, str):
        if answer_after != "every":
            raise InputError(f"answer_after must be 'every' or numbers of thoughts, not {answer_after!r}")
        return None
    if not isinstance(answer_after, Collection):
        raise TypeError(f"answer_after must be 'every' or numbers of thoughts, not {answer_after!r}")
    for number in answer_after:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"answer_after must hold integers, not {number!r}")
        if number < 0:
            raise InputError(f"answer_after must hold numbers of 0 or more, not {number}")
    return frozenset(answer_after)
