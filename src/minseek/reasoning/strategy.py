"""Base of strategies: the number of induced thoughts, and the choice of those that stay in the cache."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from minseek.errors import check_int, check_type

if TYPE_CHECKING:
    from minseek.reasoning.events import Thought

AnswerForm = Literal["direct", "final-thought"]
ANSWER_FORMS: tuple[str, ...] = get_args(AnswerForm)
"""Names of the two ways to go from the last thought to the answer."""


@dataclass(frozen=True)
class Decision:
    """The thought that leaves the cache (the new one, a kept one, or none) and the reason.

    With `ends`, no further thought is induced: what is kept leaves no space for one.
    """

    dropped: Thought | None
    why: str
    ends: bool = False


@dataclass(frozen=True)
class Strategy(ABC):
    """Rule for inducing thoughts and for keeping them in the cache.

    To write one, derive a frozen dataclass and define `decide`. Parameters that the derived class does not declare
    keep the defaults given here.

    Parameters
    ----------
    thoughts : int or None
        Thoughts to induce after the first; None for as many as the limits allow.
    stop_when_stable : int or None
        Ours, not the paper's: answer after every thought, discard that answer, and induce no further thought once
        this many such interim answers in a row agree, 2 or more.
    vote : bool
        Ours, not the paper's: answer after every thought and return the most frequent of these interim answers, the
        earliest on a tie. With a final thought, each of them has its own.

    Attributes
    ----------
    keep : int or None
        Most induced thoughts that `decide` keeps, for the memory plan; None if nothing bounds them.
    answer : {"direct", "final-thought"}
        *direct* closes thinking after the last thought; *final-thought* lets one more thought close by itself.
    independent : bool
        True if induced thoughts do not see each other: each leaves the cache before the next one is induced. Then one
        that was cut off has no answer, and thinking ends once the remaining answers cannot change a vote.
    """

    thoughts: int | None = 10
    keep: int | None = field(default=None, init=False, repr=False)
    answer: AnswerForm = field(default="direct", init=False, repr=False)
    stop_when_stable: int | None = field(default=None, kw_only=True)
    vote: bool = field(default=False, kw_only=True)

    name: ClassVar[str] = ""
    independent: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_int("thoughts", self.thoughts, least=0, optional=True)
        check_int("stop_when_stable", self.stop_when_stable, least=2, optional=True)
        check_type("vote must be True or False", self.vote, bool)

    @abstractmethod
    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Keep or drop a new induced thought, given the induced ones that are kept, oldest first."""

    @property
    def summary(self) -> str:
        """Name, rule and number of thoughts in a few words."""
        return f"{self.name}, M = {'unbounded' if self.thoughts is None else self.thoughts}"

    @property
    def needs_logprob(self) -> bool:
        """True if `decide` reads `Thought.logprob`."""
        return False

    @property
    def compares_answers(self) -> bool:
        """True if the run answers after every thought, for a vote or for a stop."""
        return self.vote or self.stop_when_stable is not None

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """Names of the parameters."""
        return tuple(parameter.name for parameter in fields(cls) if parameter.init)
