"""What to do when a thought ends: which thoughts stay in the cache, and whether another one is induced."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

from minseek.errors import InputError
from minseek.reasoning.events import Thought

Rule = Literal["shortest", "longest", "latest", "random", "likeliest"]
Answer = Literal["direct", "final-thought"]


@dataclass(frozen=True)
class Decision:
    """Which thought leaves the cache (the new one, a kept one, or none) and why."""

    dropped: Thought | None
    why: str


class Strategy(Protocol):
    """Anything with these members can steer a run.

    It may also have ``stop_when_stable`` and ``vote``, see `MinSeek`, and ``needs_logprob``: whether it looks at
    `Thought.logprob`.
    """

    @property
    def thoughts(self) -> int | None:
        """Thoughts to induce after the first; None for as many as the limits allow."""

    @property
    def answer(self) -> Answer:
        """*direct* closes thinking after the last thought; *final-thought* lets one more thought close by itself."""

    def decide(self, kept: Sequence[Thought], new: Thought, chance: random.Random) -> Decision:
        """Decide on a new induced thought, given the induced ones that are kept, oldest first."""


@dataclass(frozen=True)
class Standard:
    """Think once, as the model does by itself."""

    thoughts: ClassVar[int] = 0
    answer: ClassVar[Answer] = "direct"

    def decide(self, kept: Sequence[Thought], new: Thought, chance: random.Random) -> Decision:
        """Nothing is induced, so there is nothing to decide."""
        raise AssertionError("Standard induces no thoughts")


@dataclass(frozen=True)
class BudgetForcing:
    """Induce thoughts and keep them all (simplescaling/s1): the cache grows with the chain.

    Parameters
    ----------
    thoughts : int or None
        Thoughts to induce; None for as many as the limits allow.
    stop_when_stable, vote
        As for `MinSeek`.
    """

    thoughts: int | None = 10
    stop_when_stable: int | None = None
    vote: bool = False
    answer: ClassVar[Answer] = "direct"

    def __post_init__(self) -> None:
        _check_count("thoughts", self.thoughts, least=0, none=True)
        _check_use_of_answers(self.stop_when_stable, self.vote)

    def decide(self, kept: Sequence[Thought], new: Thought, chance: random.Random) -> Decision:
        """Keep it."""
        return Decision(None, "budget forcing keeps every thought")


@dataclass(frozen=True)
class MinSeek:
    """Induce thoughts and keep only the shortest (arXiv 2601.09855): the cache stays as it was.

    The paper keeps one thought, the shortest; other numbers and rules are for comparison.

    Parameters
    ----------
    thoughts : int or None
        Thoughts to induce; None for as many as the limits allow.
    keep : int
        Induced thoughts to keep.
    rule : {"shortest", "longest", "latest", "random", "likeliest"}
        Which ones: by number of tokens, the newest, a uniform random choice, or those whose tokens the model found
        likeliest on average (ours: `Thought.logprob`). On a tie the earlier one stays.
    answer : {"direct", "final-thought"}
        Close thinking right after the last thought, or allow one more thought that closes by itself. The paper uses
        the first for its 1.5B model and the second for its 7B model.
    stop_when_stable : int or None
        Ours, not the paper's: answer after every thought, forget the answer again, and induce no further thought once
        so many such interim answers in a row agree, 2 or more.
    vote : bool
        Ours, not the paper's: answer after every thought, and give the most frequent of these interim answers in the
        end, the earliest on a tie. With a final thought, each of them has one of its own.
    """

    thoughts: int | None = 10
    keep: int = 1
    rule: Rule = "shortest"
    answer: Answer = "direct"
    stop_when_stable: int | None = None
    vote: bool = False

    def __post_init__(self) -> None:
        _check_count("thoughts", self.thoughts, least=0, none=True)
        _check_count("keep", self.keep, least=1)
        _check_use_of_answers(self.stop_when_stable, self.vote)
        for field, choices in (("rule", get_args(Rule)), ("answer", get_args(Answer))):
            if getattr(self, field) not in choices:
                raise InputError(f"unknown {field} {getattr(self, field)!r}: choose {', '.join(choices)}")

    def decide(self, kept: Sequence[Thought], new: Thought, chance: random.Random) -> Decision:
        """Keep the new thought if there is room or if the rule prefers it to a kept one, which then goes."""
        if not new.finished:
            return Decision(new, "it was cut off")
        if len(kept) < self.keep:
            return Decision(None, "there was room for it")
        if self.rule == "latest":
            return Decision(kept[0], "it is the latest")
        if self.rule == "random":  # after n thoughts each has been kept with probability keep / n (reservoir)
            at = chance.randrange(new.index)
            return Decision(kept[at], "chosen at random") if at < self.keep else Decision(new, "not chosen at random")
        worst = min(kept, key=lambda t: (self._worth(t), -t.index))
        if self._worth(new) > self._worth(worst):
            return Decision(worst, f"{self._told(new)} against {self._told(worst)} of thought {worst.index}")
        return Decision(new, f"{self._told(new)}, and {self._told(worst)} of thought {worst.index} stay")

    @property
    def needs_logprob(self) -> bool:
        """Whether thoughts are to be told with how likely they were."""
        return self.rule == "likeliest"

    def _worth(self, thought: Thought) -> float:
        if self.rule == "likeliest":
            return -math.inf if thought.logprob is None else thought.logprob
        return -thought.length if self.rule == "shortest" else thought.length

    def _told(self, thought: Thought) -> str:
        return f"{thought.logprob} a token" if self.rule == "likeliest" else f"{thought.length} tokens"


def _check_use_of_answers(stop_when_stable: int | None, vote: bool) -> None:
    _check_count("stop_when_stable", stop_when_stable, least=2, none=True)
    if not isinstance(vote, bool):
        raise TypeError(f"vote must be True or False, not {vote!r}")


def _check_count(name: str, value: int | None, *, least: int, none: bool = False) -> None:
    if value is None and none:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer{' or None' if none else ''}, not {value!r}")
    if value < least:
        raise InputError(f"{name} must be {least} or more, not {value}")
