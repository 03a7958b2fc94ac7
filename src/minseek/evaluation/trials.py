"""Trials of a sweep: every strategy, number of thoughts, seed and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from minseek.evaluation.tasks import Task
from minseek.evaluation.thought_counts import Thoughts
from minseek.evaluation.variants import StrategyVariant


@dataclass(frozen=True)
class Trial:
    """One run: a strategy, its number of thoughts, a task and a seed.

    Attributes
    ----------
    points : tuple of int or None
        Numbers of thoughts that the run gives answers for.
    """

    variant: StrategyVariant
    thoughts: Thoughts
    points: tuple[Thoughts, ...]
    task: Task
    seed: int

    @property
    def key(self) -> tuple[str, Thoughts, str, int]:
        """Key of the trial in a result file."""
        return self.variant.name, self.thoughts, self.task.id, self.seed

    @property
    def sampling_seed(self) -> int:
        """Seed of the random numbers, from seed and task, so that the draws of different tasks are independent.

        It does not depend on the strategy or the number of thoughts, whose differences are then not those of luck.
        """
        return int.from_bytes(sha256(f"{self.seed} {self.task.digest}".encode()).digest()[:7], "big")


def expand_trials(
    variants: Sequence[StrategyVariant], grid: Sequence[Thoughts], seeds: Sequence[int], tasks: Sequence[Task]
) -> Iterator[Trial]:
    """All trials of a sweep, grouped by seed and task, so that an unfinished sweep compares all strategies."""
    for seed in seeds:
        for task in tasks:
            for variant in variants:
                for thoughts, points in variant.runs(grid):
                    yield Trial(variant, thoughts, points, task, seed)
