"""Results of trials: the answers at numbers of thoughts, with their tokens, bytes and seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minseek.evaluation.thought_counts import Thoughts, format_thoughts


@dataclass(frozen=True)
class TrialPoint:
    """The answer after some number of thoughts, as a run that stops there gives it.

    Attributes
    ----------
    thoughts : int or None
        Induced thoughts wanted; None is as many as the limits allow.
    reached : int
        Induced thoughts there were; fewer if a limit ended thinking, and then the answer is the one given there.
    answer : str
    right : bool
        True if the answer is correct.
    tokens : int
        Tokens generated up to this answer and in it, votes or checks of the strategy included.
    thinking_tokens, answer_tokens : int
        Those of the thoughts, and those of the answer itself.
    kv_tokens_peak, kv_bytes_peak : int
        Most tokens in the cache up to here, and the bytes of their keys and values.
    seconds : float
        The trial's share of the time of the passes up to here and of this answer; a pass is divided by tokens.
    ended_by, answer_ended_by : str
        Reasons for the end of thinking and of the answer; see `minseek.Stats`.
    """

    thoughts: Thoughts
    reached: int
    answer: str
    right: bool
    tokens: int
    thinking_tokens: int
    answer_tokens: int
    kv_tokens_peak: int
    kv_bytes_peak: int
    seconds: float
    ended_by: str
    answer_ended_by: str


@dataclass(frozen=True)
class EvalRecord:
    """Result of a trial.

    Attributes
    ----------
    strategy : str
        Name of the strategy, with its options.
    thoughts : int or None
        Number of thoughts of the trial.
    task, digest : str
        The task's id, and `Task.digest`.
    seed : int
    points : tuple of TrialPoint
        Ascending in thoughts.
    generated : int
        Generated tokens, interim answers included.
    seconds : float
        The trial's share of the time of all passes.
    """

    strategy: str
    thoughts: Thoughts
    task: str
    digest: str
    seed: int
    points: tuple[TrialPoint, ...]
    generated: int
    seconds: float

    @property
    def key(self) -> tuple[str, Thoughts, str, int]:
        """`Trial.key` of the trial."""
        return self.strategy, self.thoughts, self.task, self.seed

    def as_dict(self) -> dict[str, Any]:
        """The line of the result file."""
        points = [asdict(point) | {"thoughts": format_thoughts(point.thoughts)} for point in self.points]
        return {**vars(self), "thoughts": format_thoughts(self.thoughts), "points": points}


def points_by_cell(records: Sequence[EvalRecord]) -> dict[tuple[str, Thoughts], dict[tuple[str, int], TrialPoint]]:
    """Points by strategy and number of thoughts, and within these by task and seed."""
    found: dict[tuple[str, Thoughts], dict[tuple[str, int], TrialPoint]] = {}
    for record in records:
        for point in record.points:
            found.setdefault((record.strategy, point.thoughts), {})[record.task, record.seed] = point
    return found
