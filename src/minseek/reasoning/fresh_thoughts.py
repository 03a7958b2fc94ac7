"""Thoughts that do not see each other, and a vote over their answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from minseek.reasoning.strategy import Decision, Strategy

if TYPE_CHECKING:
    from minseek.reasoning.events import Thought


@dataclass(frozen=True)
class FreshThoughts(Strategy):
    """Induce thoughts that do not see each other, and vote: the cache holds one induced thought at a time.

    Ours, not the paper's. Each thought is induced after prompt and first thought alone, an answer follows it, and both
    leave the cache. The most frequent answer is the result, the first thought's included, the earliest on a tie: the
    vote of self-consistency (arXiv 2203.11171), among thoughts that share their first one instead of whole samples.
    Thinking ends early once the thoughts left cannot change the vote. At temperature 0 all these thoughts are equal.

    Parameters
    ----------
    thoughts : int or None
        Most thoughts to induce; None for as many as the limits allow.
    stop_when_stable
        See `Strategy`.
    """

    keep: int | None = field(default=1, init=False, repr=False)
    vote: bool = field(default=True, init=False, repr=False)

    name: ClassVar[str] = "fresh"
    independent: ClassVar[bool] = True

    def decide(self, kept: Sequence[Thought], new: Thought, rng: random.Random) -> Decision:
        """Keep it until the next one is induced, so that its answer can be written."""
        if not new.finished:
            return Decision(new, new.cut_off)
        return Decision(None, "a vote of its own")

    @property
    def summary(self) -> str:
        """Name, rule and number of thoughts in a few words."""
        return super().summary.replace(", ", ", rule vote, ", 1)
