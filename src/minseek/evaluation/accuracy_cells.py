"""Cells of a sweep: accuracy, tokens, bytes and seconds of a strategy at a number of thoughts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minseek.evaluation.eval_records import EvalRecord, TrialPoint, points_by_cell
from minseek.evaluation.intervals import Bootstrap, paired_interval, share_interval
from minseek.evaluation.thought_counts import Thoughts, format_thoughts, thoughts_order

Interval = tuple[float, float]
Points = dict[tuple[str, int], TrialPoint]


@dataclass(frozen=True)
class EvalCell:
    """Statistics of one strategy at one number of thoughts.

    Attributes
    ----------
    strategy : str
    thoughts : int or None
        Induced thoughts wanted; None is unbounded.
    tasks, tries : int
        Number of tasks, and of answers to them, one for each seed.
    accuracy : float
        Share of correct answers.
    interval : (float, float)
        Its 95 % interval; see `minseek.evaluation.intervals`.
    difference, difference_interval
        Accuracy less that with no induced thought, over the tasks and seeds that have both, and its 95 % interval by
        `minseek.evaluation.intervals.paired_interval`. None without such answers.
    repaired, spoiled : int or None
        Answers that are correct and were wrong with no induced thought, and the reverse.
    normalized, normalized_interval
        Accuracy over that with no induced thought, as the paper reports it (the denominator is our reading).
    tokens, kv_tokens_peak, kv_bytes_peak, seconds : float
        Means over all tries; see `minseek.evaluation.eval_records.TrialPoint`.
    kv_bytes_most : int
        The highest peak.
    cut_short : float
        Share of tries in which a limit ended thinking before the last thought was finished.
    answers_cut : float
        Share of tries whose answer a limit ended.
    reached : float
        Mean number of induced thoughts.
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
    normalized: float | None
    normalized_interval: Interval | None
    tokens: float
    kv_tokens_peak: float
    kv_bytes_peak: float
    kv_bytes_most: int
    seconds: float
    cut_short: float
    answers_cut: float
    reached: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"thoughts": format_thoughts(self.thoughts)}


def summarize(records: Sequence[EvalRecord]) -> list[EvalCell]:
    """Compute a cell for every strategy, in the order of the records, and every number of thoughts, ascending.

    The baseline without induced thoughts is the strategy's own if the grid has it, else that of ``standard``.
    """
    found = points_by_cell(records)
    strategies = list(dict.fromkeys(record.strategy for record in records))
    bootstraps: dict[int, Bootstrap] = {}
    cells = []
    for strategy, thoughts in sorted(found, key=lambda cell: (strategies.index(cell[0]), thoughts_order(cell[1]))):
        base = found.get((strategy, 0), found.get(("standard", 0), {}))
        cells.append(_cell(strategy, thoughts, found[strategy, thoughts], base, bootstraps))
    return cells


def _cell(
    strategy: str, thoughts: Thoughts, points: Points, base: Points, bootstraps: dict[int, Bootstrap]
) -> EvalCell:
    right, tries = _by_task({key: float(point.right) for key, point in points.items()})
    gains = {key: float(point.right) - base[key].right for key, point in points.items() if key in base}
    difference, difference_interval, normalized, normalized_interval = None, None, None, None
    repaired, spoiled = None, None
    if gains:
        gained, both = _by_task(gains)
        wanted, _ = _by_task({key: float(base[key].right) for key in gains})
        draws = _draws(len(both), bootstraps)
        difference, difference_interval = float(gained.sum() / both.sum()), paired_interval(gained, both, draws)
        repaired, spoiled = (sum(gain == way for gain in gains.values()) for way in (1, -1))
        if wanted.sum():
            normalized = float(1 + gained.sum() / wanted.sum())
            normalized_interval = draws.ratio(wanted + gained, wanted)
    values = list(points.values())
    return EvalCell(
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
        normalized=normalized,
        normalized_interval=normalized_interval,
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
    """The set of draws shared by all cells with this number of tasks."""
    if tasks not in bootstraps:
        bootstraps[tasks] = Bootstrap(tasks)
    return bootstraps[tasks]


def _by_task(values: dict[tuple[str, int], float]) -> tuple[Any, Any]:
    """Sum and number of the values of each task, in the order of the tasks' ids: [tasks] each."""
    sums: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        sums.setdefault(task, []).append(value)
    ordered = [sums[task] for task in sorted(sums)]
    return np.array([sum(values) for values in ordered]), np.array([float(len(values)) for values in ordered])


def _is_cut(point: TrialPoint) -> bool:
    if point.ended_by in ("stable", "decided"):
        return False
    return point.ended_by in ("context", "kv-budget", "thinking-budget") or (
        point.thoughts is not None and point.reached < point.thoughts
    )
