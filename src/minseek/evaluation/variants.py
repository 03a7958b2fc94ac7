"""Strategies to compare, each for any number of thoughts, and their spelling on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from minseek.errors import InputError
from minseek.evaluation.thought_counts import Thoughts
from minseek.reasoning.strategies import STRATEGIES
from minseek.reasoning.strategy import Strategy
from minseek.reasoning.strategy_text import parse_strategy_text


@dataclass(frozen=True)
class StrategyVariant:
    """A strategy with its options, for any number of thoughts.

    Attributes
    ----------
    name : str
        The name in results: ``min-seek:rule=random,keep=2``.
    base : Strategy
        The strategy; its own number of thoughts does not matter if it has that parameter.
    """

    name: str
    base: Strategy

    def strategy(self, thoughts: Thoughts) -> Strategy:
        """The strategy that induces this many thoughts."""
        return replace(self.base, thoughts=thoughts) if "thoughts" in self.base.options() else self.base

    def runs(self, grid: Sequence[Thoughts]) -> list[tuple[Thoughts, tuple[Thoughts, ...]]]:
        """Runs that give the answers at all points of a grid: the thoughts of each, and the points that it answers.

        A chain of thoughts passes through the states of all shorter ones, so one run is enough, unless the answer
        depends on more than the state: a final thought, a vote, a stop.
        """
        if "thoughts" not in self.base.options():
            return [(self.base.thoughts, (self.base.thoughts,))]
        if self.base.answer == "final-thought" or self.base.compares_answers:
            return [(thoughts, (thoughts,)) for thoughts in grid]
        return [(grid[-1], tuple(grid))]


def parse_strategy(text: str) -> StrategyVariant:
    """Parse ``name[:option=value,…]``.

    Raises
    ------
    InputError
        If there is no such strategy or option, or a value is wrong.
    """
    name, options = parse_strategy_text(text)
    try:
        return StrategyVariant(text, STRATEGIES[name](**options))
    except (InputError, TypeError) as error:
        raise InputError(f"the strategy {text!r} is wrong: {error}") from None


def parse_strategies(strategies: Iterable[str | Strategy]) -> list[StrategyVariant]:
    """Variants of several strategies, given as text or as objects.

    Raises
    ------
    InputError
        If one is wrong or given twice.
    """
    found: list[StrategyVariant] = []
    for given in strategies:
        variant = parse_strategy(given) if isinstance(given, str) else _from_object(given)
        if any(variant.strategy(0) == other.strategy(0) or variant.name == other.name for other in found):
            raise InputError(f"the strategy {variant.name!r} is given twice: give each once")
        found.append(variant)
    if not found:
        raise InputError(f"there is no strategy to evaluate: give one or more of {', '.join(STRATEGIES)}")
    return found


def _from_object(strategy: Strategy) -> StrategyVariant:
    """A variant named after the strategy and its options that are not the defaults."""
    if not isinstance(strategy, Strategy):
        raise TypeError(f"a strategy is a name or a Strategy, not {strategy!r}")
    given = {
        parameter.name: value
        for parameter in fields(strategy)
        if parameter.init and parameter.name != "thoughts"
        if (value := getattr(strategy, parameter.name)) != parameter.default
    }
    shown = ",".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()
    )
    return StrategyVariant((strategy.name or type(strategy).__name__) + (f":{shown}" if shown else ""), strategy)
