"""The strategies, by name."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from minseek.errors import InputError, check_int
from minseek.reasoning.fresh_thoughts import FreshThoughts
from minseek.reasoning.strategy import ANSWER_FORMS, AnswerForm, Decision, Strategy

if TYPE_CHECKING:
    from minseek.reasoning.events import Thought

KeepRule = Literal["shortest", "longest", "latest", "random", "most-likely"]
RULES: tuple[str, ...] = get_args(KeepRule)
"""Names of the rules by which `MinSeek` chooses the thoughts to keep."""
RULE_ALIASES = {"likeliest": "most-likely"}
"""Earlier names of rules, still accepted."""

T = TypeVar("T", bound=Strategy)


@dataclass(frozen=True)
class Standard(Strategy):
    """Think once, as the model does by itself."""

    thoughts: int | None = field(default=0, init=False, repr=False)
    stop_when_stable: int | None = field(default=None, init=False, repr=False)
    vote: bool = field(default=False, init=False, repr=False)

    name: ClassVar[str] = "standard"

    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Nothing is induced, so there is nothing to decide."""
        raise AssertionError("Standard induces no thoughts")


@dataclass(frozen=True)
class BudgetForcing(Strategy):
    """Induce thoughts and keep them all (simplescaling/s1): the cache grows with the chain.

    Parameters
    ----------
    thoughts : int or None
        Thoughts to induce; None for as many as the limits allow.
    stop_when_stable, vote
        See `Strategy`.
    """

    name: ClassVar[str] = "budget-forcing"

    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Keep it."""
        return Decision(None, "budget forcing keeps every thought")


@dataclass(frozen=True)
class MinSeek(Strategy):
    """Induce thoughts and keep only the shortest (arXiv 2601.09855): the cache stays small.

    The paper keeps one thought, the shortest; other numbers and rules are for comparison.

    Parameters
    ----------
    thoughts : int or None
        Thoughts to induce; None for as many as the limits allow.
    keep : int
        Induced thoughts to keep.
    rule : {"shortest", "longest", "latest", "random", "most-likely"}
        The thoughts to keep: by number of tokens, the newest, a uniform random choice, or those with the highest mean
        token log-probability (ours: `Thought.logprob`). On a tie the earlier one stays.
    answer : {"direct", "final-thought"}
        Close thinking right after the last thought, or allow one more thought that closes by itself. The paper uses
        the first for its 1.5B model and the second for its 7B model.
    stop_when_stable, vote
        See `Strategy`.
    """

    keep: int = 1
    rule: KeepRule = "shortest"
    answer: AnswerForm = field(default="direct", kw_only=True)

    name: ClassVar[str] = "min-seek"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("keep", self.keep, least=1)
        object.__setattr__(self, "rule", canonical_rule(self.rule))
        for option, choices in (("rule", RULES), ("answer", ANSWER_FORMS)):
            if getattr(self, option) not in choices:
                raise InputError(f"unknown {option} {getattr(self, option)!r}: choose {', '.join(choices)}")

    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Keep the new thought if fewer than `keep` are kept, or if the rule prefers it to one that then leaves.

        Ours: a thought that is cut off because others are kept ends thinking, since the next ones would be, too.
        """
        if not new.finished:
            is_full = bool(kept) and new.ended_by in ("context", "kv-budget")
            return Decision(new, f"{new.cut_off}, beside what is kept" if is_full else new.cut_off, ends=is_full)
        if len(kept) < self.keep:
            return Decision(None, f"{len(kept)} of {self.keep} were kept so far")
        if self.rule == "latest":
            return Decision(kept[0], "it is the latest")
        if self.rule == "random":  # after n thoughts each has been kept with probability keep / n (reservoir)
            index = rng.randrange(new.index)
            return Decision(kept[index], "chosen at random") if index < self.keep else Decision(new, "not chosen")
        worst = min(kept, key=lambda thought: (self._score(thought), -thought.index))
        if self._score(new) > self._score(worst):
            return Decision(worst, f"{self._describe(new)} against {self._describe(worst)} of thought {worst.index}")
        return Decision(
            new, f"{self._describe(new)} against {self._describe(worst)} of thought {worst.index}, which stays"
        )

    @property
    def summary(self) -> str:
        """Name, rule and number of thoughts in a few words."""
        return super().summary.replace(", ", f", rule {self.rule}, ", 1)

    @property
    def needs_logprob(self) -> bool:
        """True for the rule "most-likely"."""
        return self.rule == "most-likely"

    def _score(self, thought: Thought) -> float:
        if self.rule == "most-likely":
            return -math.inf if thought.logprob is None else thought.logprob
        return -thought.length if self.rule == "shortest" else thought.length

    def _describe(self, thought: Thought) -> str:
        return f"{thought.logprob} a token" if self.rule == "most-likely" else f"{thought.length} tokens"


STRATEGIES: dict[str, type[Strategy]] = {kind.name: kind for kind in (MinSeek, FreshThoughts, BudgetForcing, Standard)}
"""The strategies by name."""
OPTIONS: tuple[str, ...] = tuple(dict.fromkeys(name for kind in STRATEGIES.values() for name in kind.options()))
"""Names of the parameters of all strategies."""


def register(kind: type[T]) -> type[T]:
    """Make a strategy of your own known by its ``name``; usable as a decorator.

    Raises
    ------
    InputError
        If it is no frozen dataclass, has no name, or the name belongs to another strategy.
    """
    if "__dataclass_fields__" not in vars(kind):
        raise InputError(f"the strategy {kind.__name__} is no dataclass: write @dataclass(frozen=True) below @register")
    if not re.fullmatch(r"[\w.-]+", kind.name):
        raise InputError(
            f"the name {kind.name!r} of the strategy {kind.__name__} cannot be used: give it a class attribute 'name' "
            "of letters, digits, '.', '_' and '-'"
        )
    owner = STRATEGIES.get(kind.name, kind)
    if owner is not kind:
        raise InputError(f"the name {kind.name!r} belongs to the strategy {owner.__name__}: take another")
    STRATEGIES[kind.name] = kind
    return kind


def with_options(default: Strategy, options: Mapping[str, Any]) -> Strategy:
    """A default strategy with these options, or Min-Seek with them if the default does not have them.

    Raises
    ------
    InputError, TypeError
        If a value is wrong.
    """
    if not {"thoughts", *options} <= set(default.options()):
        default = MinSeek()
    return replace(default, **options)


def check_keep(strategy: Strategy, most_thoughts: int | None, keep: str = "keep", thoughts: str = "thoughts") -> None:
    """Refuse to keep more thoughts than are induced: a strategy accepts it, as sweeps change its number of thoughts.

    Parameters
    ----------
    most_thoughts : int or None
        Most thoughts that are induced; None is unbounded.
    keep, thoughts : str
        Names of the two options in messages.

    Raises
    ------
    InputError
        If the strategy keeps more.
    """
    if strategy.keep is not None and most_thoughts is not None and strategy.keep > max(1, most_thoughts):
        raise InputError(
            f"{keep} {strategy.keep} has no effect with {thoughts} {most_thoughts}: give a smaller {keep} or more "
            "thoughts"
        )


def canonical_rule(rule: str) -> str:
    """The current name of a rule; anything else is returned unchanged."""
    return RULE_ALIASES.get(rule, rule) if isinstance(rule, str) else rule
