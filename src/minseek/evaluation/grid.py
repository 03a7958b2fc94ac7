"""What a sweep runs: variants of strategies, numbers of thoughts, seeds and tasks, and the trials that cover them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from minseek.errors import InputError
from minseek.evaluation.tasks import Task
from minseek.protocol.fields import FieldError
from minseek.protocol.thinking import parse_strategy
from minseek.reasoning.strategies import STRATEGIES, Strategy

Thoughts = int | None
"""Induced thoughts; None is as many as the limits allow."""
PAPER_GRID: tuple[Thoughts, ...] = (0, 2, 4, 6, 10, 20, 50, 100, None)
"""The numbers of thoughts in the paper (arXiv 2601.09855)."""
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True)
class Variant:
    """A strategy with its options, for any number of thoughts.

    Attributes
    ----------
    name : str
        As it is spelled: ``min-seek:rule=random,keep=2``.
    options : tuple of (str, value)
        Those that are given, and the strategy's name as ``strategy``.
    """

    name: str
    options: tuple[tuple[str, Any], ...]

    def strategy(self, thoughts: Thoughts) -> Strategy:
        """The strategy that induces so many thoughts."""
        given = dict(self.options)
        if given["strategy"] == "standard":
            return parse_strategy(given)
        return parse_strategy({**given, "thoughts": "unbounded" if thoughts is None else thoughts})

    def trials(self, grid: Sequence[Thoughts]) -> list[tuple[Thoughts, tuple[Thoughts, ...]]]:
        """Trials that give the answers at all points of the grid: the thoughts of each, and the points it answers.

        A chain of thoughts passes through the states of all shorter ones, so one is enough, unless the answer depends
        on more than the state: a final thought, a vote, a stop.
        """
        given = dict(self.options)
        if given["strategy"] == "standard":
            return [(0, (0,))]
        if given.get("answer") == "final-thought" or given.get("vote") or given.get("stop_when_stable") is not None:
            return [(thoughts, (thoughts,)) for thoughts in grid]
        return [(grid[-1], tuple(grid))]


@dataclass(frozen=True)
class Trial:
    """One run: a variant, its number of thoughts, a task and a seed; `points` are the thoughts it gives answers for."""

    variant: Variant
    thoughts: Thoughts
    points: tuple[Thoughts, ...]
    task: Task
    seed: int

    @property
    def key(self) -> tuple[str, Thoughts, str, int]:
        """What it is found by in a file of results."""
        return self.variant.name, self.thoughts, self.task.id, self.seed

    @property
    def own_seed(self) -> int:
        """What its random numbers come from: seed and task, so that what is drawn for one task says nothing of others.

        It is the same for all variants and numbers of thoughts, whose differences are then not those of luck.
        """
        return int.from_bytes(sha256(f"{self.seed} {self.task.digest}".encode()).digest()[:7], "big")


def trials(
    variants: Sequence[Variant], grid: Sequence[Thoughts], seeds: Sequence[int], tasks: Sequence[Task]
) -> Iterator[Trial]:
    """All trials of a sweep; seeds and tasks come first, so that what is finished early compares all variants."""
    for seed in seeds:
        for task in tasks:
            for variant in variants:
                for thoughts, points in variant.trials(grid):
                    yield Trial(variant, thoughts, points, task, seed)


def parse_variant(text: str) -> Variant:
    """A strategy as it is spelled, ``name[:option=value,…]``.

    Raises
    ------
    InputError
        If there is no such strategy or option, or a value is wrong.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {"strategy": name}
    if name not in STRATEGIES:
        raise InputError(f"unknown strategy {name!r}: choose {', '.join(STRATEGIES)}")
    known = [option for option in STRATEGIES[name].options() if option != "thoughts"]
    for part in rest.split(",") if rest else ():
        option, equals, value = part.partition("=")
        if not equals or option not in known:
            takes = f"option=value with {', '.join(known)}" if known else "no options"
            raise InputError(f"cannot read {part!r} in the strategy {text!r}: {name} takes {takes}")
        if option in options:
            raise InputError(f"the strategy {text!r} gives {option} twice: give it once")
        options[option] = int(value) if re.fullmatch(r"-?\d{1,9}", value) else _WORDS.get(value, value)
    variant = Variant(text, tuple(options.items()))
    try:
        variant.strategy(0)
    except FieldError as error:
        raise InputError(f"the strategy {text!r} is wrong: {str(error).replace('thinking.', '')}") from None
    return variant


def parse_variants(texts: Iterable[str]) -> list[Variant]:
    """Several strategies, each once."""
    found: dict[tuple[tuple[str, Any], ...], Variant] = {}
    for text in texts:
        variant = parse_variant(text)
        same = tuple(sorted(variant.options))
        if same in found:
            raise InputError(f"the strategy {text!r} is given twice: give each once")
        found[same] = variant
    return list(found.values())


def parse_thoughts(text: str) -> tuple[Thoughts, ...]:
    """Numbers of thoughts, ``0,2,4,unbounded``, ascending, with "unbounded" at the end.

    Raises
    ------
    InputError
        If one is neither a number nor "unbounded".
    """
    found: set[Thoughts] = set()
    for part in text.split(","):
        word = part.strip()
        if word != "unbounded" and not re.fullmatch(r"\d{1,9}", word):
            raise InputError(f"numbers of thoughts are given as 0,2,4 or unbounded, not {part!r}")
        found.add(None if word == "unbounded" else int(word))
    return tuple(sorted(found, key=order))


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds, ``0,1,2``, in the order given.

    Raises
    ------
    InputError
        If one is no number, or is given twice.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = next((part for part in parts if not re.fullmatch(r"\d{1,18}", part)), None)
    if wrong is not None:
        raise InputError(f"seeds are given as numbers from 0 on, 0,1,2, not {wrong!r}")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"each seed can be given once, not {text!r}")
    return seeds


def order(thoughts: Thoughts) -> float:
    """Numbers of thoughts in their order, unbounded last."""
    return float("inf") if thoughts is None else thoughts


def shown(thoughts: Thoughts) -> int | str:
    """A number of thoughts as users and files have it."""
    return "unbounded" if thoughts is None else thoughts
