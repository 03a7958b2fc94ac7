"""Interim answers: those that a run would give after fewer thoughts, and the decisions that rest on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TypeVar

from torch import Tensor

from minseek.reasoning.answer import Answer
from minseek.reasoning.answer_extraction import final_answer
from minseek.reasoning.chain import NeedLogits, RunSteps
from minseek.reasoning.options import AnswerAfter
from minseek.reasoning.strategy import Strategy

T = TypeVar("T")


class InterimAnswers:
    """The interim answers of one run: when they are due, and the strategy's stop and vote.

    Stopping once they have not changed for a while and voting are ours, not the paper's. Answers are compared by
    `final_answer`; one that is empty there agrees with no other, and wins a vote only if all are empty.

    Attributes
    ----------
    decides : bool
        True if the final answer is one of the interim answers.
    reports_interim : bool
        True if interim answers are reported as events.
    tokens : int
        Tokens generated for interim answers so far.
    """

    def __init__(self, strategy: Strategy, answer_after: AnswerAfter) -> None:
        self.decides = strategy.compares_answers
        self.reports_interim = self.decides or answer_after is not None
        self.tokens = 0
        self._every = answer_after == "every"
        self._after = frozenset[int]() if answer_after is None or isinstance(answer_after, str) else set(answer_after)
        self._votes, self._window = strategy.vote, strategy.stop_when_stable
        self._latest: deque[str] = deque(maxlen=self._window or 1)
        self._counts: dict[str, int] = {}
        self._earliest: dict[str, Answer] = {}  # extracted text -> the first answer that has it
        self._last: Answer | None = None

    def due(self, thoughts: int) -> bool:
        """True if an interim answer is wanted after that many induced thoughts."""
        return self.decides or self._every or thoughts in self._after

    def add(self, answer: Answer) -> None:
        """Count another interim answer."""
        if not self.decides:
            return
        extracted = final_answer(answer.text)
        self._latest.append(extracted)
        self._counts[extracted] = self._counts.get(extracted, 0) + 1
        self._earliest.setdefault(extracted, answer)
        self._last = answer

    @property
    def stable(self) -> bool:
        """True if the last `stop_when_stable` answers agree."""
        return len(self._latest) == self._window and len(set(self._latest)) == 1 and self._latest[0] != ""

    def decided(self, left: int | None) -> bool:
        """True if `left` more answers, None for any number, cannot change the winner of the vote."""
        if left is None or not self._counts:
            return False
        winner = self._winner()
        if winner == "":
            return left == 0
        order, votes = list(self._counts), self._counts[winner]
        earlier = {text for text in order[: order.index(winner)] if text}  # one that ties with the winner beats it
        return votes >= left and all(
            count + left < votes + (text not in earlier)
            for text, count in self._counts.items()
            if text not in (winner, "")
        )

    def chosen(self) -> Answer:
        """The final answer: by vote the most frequent one, the earliest on a tie; without a vote the last one."""
        assert self._last is not None, "an interim answer follows the last thought, too"
        if not self._votes:
            return self._last
        return self._earliest[self._winner()]

    def _winner(self) -> str:
        """The extracted text of most answers, the earliest on a tie."""
        return max(self._counts, key=lambda extracted: (extracted != "", self._counts[extracted]))


def silent(steps: RunSteps[T]) -> Generator[NeedLogits, Tensor | None, T]:
    """Run steps without yielding their events."""
    logits: Tensor | None = None
    while True:
        try:
            step = steps.send(logits)
        except StopIteration as end:
            returned: T = end.value
            return returned
        logits = (yield step) if isinstance(step, NeedLogits) else None
