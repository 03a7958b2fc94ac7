"""What came of trials: the answers at numbers of thoughts, with what they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minseek.evaluation.grid import Thoughts, shown


@dataclass(frozen=True)
class Point:
    """The answer after some number of thoughts, as a run that stops there gives it.

    Attributes
    ----------
    thoughts : int or None
        Induced thoughts wanted; None is as many as the limits allow.
    reached : int
        Induced thoughts there were; fewer where a limit ended thinking, and then the answer is the one given there.
    answer : str
    right : bool
    tokens : int
        Generated up to this answer and in it, votes or checks of the strategy included.
    thinking_tokens, answer_tokens : int
        Of these, thoughts; and the answer itself.
    kv_tokens_peak, kv_bytes_peak : int
        Tokens in the cache at most, up to here, and the bytes of their keys and values.
    seconds : float
        The trial's share of the passes' time up to here, and of this answer's: a pass is divided by tokens.
    ended_by, answer_ended_by : str
        Why thinking ended, and why the answer did; see `minseek.Stats`.
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
class Record:
    """What came of a trial.

    Attributes
    ----------
    strategy : str
        As it is spelled.
    thoughts : int or None
        Of the trial.
    task, digest : str
        The task's id, and `Task.digest`.
    seed : int
    points : tuple of Point
        Ascending in thoughts.
    generated : int
        Tokens that were generated, answers on the way included.
    seconds : float
        The share of the passes' time.
    """

    strategy: str
    thoughts: Thoughts
    task: str
    digest: str
    seed: int
    points: tuple[Point, ...]
    generated: int
    seconds: float

    @property
    def key(self) -> tuple[str, Thoughts, str, int]:
        """As `Trial.key`."""
        return self.strategy, self.thoughts, self.task, self.seed

    def as_dict(self) -> dict[str, Any]:
        """For a line of the file."""
        points = [asdict(point) | {"thoughts": shown(point.thoughts)} for point in self.points]
        return {**vars(self), "thoughts": shown(self.thoughts), "points": points}


def points_of(records: Sequence[Record]) -> dict[tuple[str, Thoughts], dict[tuple[str, int], Point]]:
    """Points by strategy and number of thoughts, and among those by task and seed."""
    found: dict[tuple[str, Thoughts], dict[tuple[str, int], Point]] = {}
    for record in records:
        for point in record.points:
            found.setdefault((record.strategy, point.thoughts), {})[record.task, record.seed] = point
    return found
