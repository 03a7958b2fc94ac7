"""Accuracy, tokens, bytes and seconds for every strategy and number of thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minseek.evaluation.grid import Thoughts, order, shown
from minseek.evaluation.intervals import Bootstrap, paired_interval, share_interval
from minseek.evaluation.points import Point, Record, points_of

Interval = tuple[float, float]
Points = dict[tuple[str, int], Point]


@dataclass(frozen=True)
class Cell:
    """One strategy at one number of thoughts.

    Attributes
    ----------
    strategy : str
    thoughts : int or None
        Induced thoughts wanted; None is unbounded.
    tasks, tries : int
        Tasks, and answers to them: one for each seed.
    accuracy : float
        Share of right answers.
    interval : (float, float)
        Its 95 % interval; see `minseek.evaluation.intervals`.
    difference, difference_interval
        Accuracy less that with no induced thought, over the tasks and seeds that have both, and its 95 % interval by
        `minseek.evaluation.intervals.paired_interval`. None without such answers.
    repaired, spoiled : int or None
        Answers that are right and were wrong with no induced thought, and the other way round.
    normalised, normalised_interval
        Accuracy over that with no induced thought, as the paper reports it (its normaliser is our reading).
    tokens, kv_tokens_peak, kv_bytes_peak, seconds : float
        Means over all tries; see `minseek.evaluation.records.Point`.
    kv_bytes_most : int
        The highest peak.
    cut_short : float
        Share of tries in which a limit ended thinking before all thoughts were there, or in the last one.
    answers_cut : float
        Share of tries whose answer a limit ended.
    reached : float
        Mean number of induced thoughts there were.
    """

    strategy: str
    thoughts: Thoughts
    tasks: int
    tries: int
    accuracy: float
    interval: Interval
    difference: float | None
    difference_interval: Interval | None
    repaired: int | None
    spoiled: int | None
    normalised: float | None
    normalised_interval: Interval | None
    tokens: float
    kv_tokens_peak: float
    kv_bytes_peak: float
    kv_bytes_most: int
    seconds: float
    cut_short: float
    answers_cut: float
    reached: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"thoughts": shown(self.thoughts)}


def summarise(records: Sequence[Record]) -> list[Cell]:
    """A cell for every strategy, in the order of the records, and every number of thoughts, ascending.

    Accuracy without induced thoughts is the strategy's own where the grid has it, else that of ``standard``.
    """
    found = points_of(records)
    strategies = list(dict.fromkeys(record.strategy for record in records))
    bootstraps: dict[int, Bootstrap] = {}
    cells = []
    for strategy, thoughts in sorted(found, key=lambda cell: (strategies.index(cell[0]), order(cell[1]))):
        base = found.get((strategy, 0), found.get(("standard", 0), {}))
        cells.append(_cell(strategy, thoughts, found[strategy, thoughts], base, bootstraps))
    return cells


def _cell(strategy: str, thoughts: Thoughts, points: Points, base: Points, bootstraps: dict[int, Bootstrap]) -> Cell:
    right, tries = _by_task({key: float(point.right) for key, point in points.items()})
    gains = {key: float(point.right) - base[key].right for key, point in points.items() if key in base}
    difference, difference_interval, normalised, normalised_interval = None, None, None, None
    repaired, spoiled = None, None
    if gains:
        gained, both = _by_task(gains)
        wanted, _ = _by_task({key: float(base[key].right) for key in gains})
        draws = _draws(len(both), bootstraps)
        difference, difference_interval = float(gained.sum() / both.sum()), paired_interval(gained, both, draws)
        repaired, spoiled = (sum(gain == way for gain in gains.values()) for way in (1, -1))
        if wanted.sum():
            normalised = float(1 + gained.sum() / wanted.sum())
            normalised_interval = draws.ratio(wanted + gained, wanted)
    values = list(points.values())
    return Cell(
        strategy=strategy,
        thoughts=thoughts,
        tasks=len(tries),
        tries=len(values),
        accuracy=float(right.sum() / tries.sum()),
        interval=share_interval(right, tries, _draws(len(tries), bootstraps)),
        difference=difference,
        difference_interval=difference_interval,
        repaired=repaired,
        spoiled=spoiled,
        normalised=normalised,
        normalised_interval=normalised_interval,
        tokens=float(np.mean([point.tokens for point in values])),
        kv_tokens_peak=float(np.mean([point.kv_tokens_peak for point in values])),
        kv_bytes_peak=float(np.mean([point.kv_bytes_peak for point in values])),
        kv_bytes_most=max(point.kv_bytes_peak for point in values),
        seconds=float(np.mean([point.seconds for point in values])),
        cut_short=float(np.mean([_is_cut(point) for point in values])),
        answers_cut=float(np.mean([point.answer_ended_by not in ("end", "stop") for point in values])),
        reached=float(np.mean([point.reached for point in values])),
    )


def _draws(tasks: int, bootstraps: dict[int, Bootstrap]) -> Bootstrap:
    """One set of draws for all cells of so many tasks."""
    if tasks not in bootstraps:
        bootstraps[tasks] = Bootstrap(tasks)
    return bootstraps[tasks]


def _by_task(values: dict[tuple[str, int], float]) -> tuple[Any, Any]:
    """Sum and number of the values of each task, in the order of the tasks' ids: [tasks] each."""
    sums: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        sums.setdefault(task, []).append(value)
    ordered = [sums[task] for task in sorted(sums)]
    return np.array([sum(own) for own in ordered]), np.array([float(len(own)) for own in ordered])


def _is_cut(point: Point) -> bool:
    if point.ended_by == "stable":
        return False
    return point.ended_by in ("context", "kv-budget", "thinking-budget") or (
        point.thoughts is not None and point.reached < point.thoughts
    )
