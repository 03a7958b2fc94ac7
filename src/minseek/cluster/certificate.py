"""The proof that a clustering is locally optimal, or the moves that refute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minseek.cluster.backends import Engine, empties

_FINEST = 2.0**-46  # of the loss: what double precision can tell apart in a sum of divergences, with a margin


class Move(NamedTuple):
    """One row (with the rows equal to it in its cluster) into another cluster, and by how much that changes the
    loss."""

    row: int
    source: int
    target: int
    change: float


@dataclass(frozen=True)
class Certificate:
    """What was proved of a clustering, by looking at every single move of every point.

    Source: Li, Metel, Takeda, *Modified K-means Algorithm with Local Optimality Guarantees*, ICML 2025 (arXiv
    2506.06990): C- and D-local optimality. That the tolerance is relative to the loss is ours.

    Attributes
    ----------
    optimality : "D", "C" or None
        "D" (discrete): no point lowers the loss by going to another cluster, both centres following; this implies
        "C". "C" (continuous): every point is strictly nearest to its own centre, so the assignment is a local
        minimum also when points may belong to several clusters in shares. None: neither.
    smallest_change : float
        The smallest change of the loss over all single moves; negative where one of them gains. inf for a single
        cluster.
    smallest_gap : float
        The least by which any other centre is farther from a point than its own one (in the divergence); inf for a
        single cluster.
    tolerance : float
        Changes above minus this count as none: ``loss * max(tol / n, 2**-46)`` for n different rows, or what rounding
        alone may change where that is more (rows that differ only in their last digits).
    loss : float
        Sum of weights times divergences to the centres.
    limit_hit : bool
        Whether `max_iter` ended the search.
    moves : tuple of Move
        The best move of every point that gains by one, the greatest gain first; empty when D-local.
    """

    optimality: str | None
    smallest_change: float
    smallest_gap: float
    tolerance: float
    loss: float
    limit_hit: bool = False
    moves: tuple[Move, ...] = ()

    def __str__(self) -> str:
        if self.optimality == "D":
            proof = "D-local optimum: no single move lowers the loss"
        elif self.optimality == "C":
            proof = f"C-local, but not D-local: {len(self.moves)} points gain by moving"
        else:
            proof = f"not a local optimum: {len(self.moves)} points gain by moving"
        limit = "; max_iter was reached" if self.limit_hit else ""
        figures = f"smallest change {self.smallest_change:.3g}, tolerance {self.tolerance:.3g}, loss {self.loss:.6g}"
        return f"{proof} ({figures}){limit}"


def tolerance_for(engine: Engine, loss: float, tol: float) -> float:
    """What a change of the loss must exceed to count: relative to a point's mean loss, but not finer than rounding."""
    return max(loss * max(tol / engine.points.count, _FINEST), engine.noise(loss))


def certify(engine: Engine, tol: float, *, limit_hit: bool = False) -> Certificate:
    """Look at every single move of the engine's clustering."""
    loss = engine.loss()
    n = engine.points.count
    tolerance = tolerance_for(engine, loss, tol)
    scan = engine.scan()
    change, gap = float(scan.change.min(initial=np.inf)), float(scan.gap.min(initial=np.inf))
    gaining = np.flatnonzero(scan.change < -tolerance)
    gaining = gaining[np.argsort(scan.change[gaining], kind="stable")]
    rows = gaining if engine.points.rows is None else engine.points.rows[gaining]
    columns = (rows, engine.labels[gaining], scan.best[gaining], scan.change[gaining])
    moves = tuple(Move(*entry) for entry in zip(*(c.tolist() for c in columns), strict=True))
    strict = gap > tolerance * n / float(engine.points.weight.sum())
    filled = not len(empties(engine.sizes)) or loss <= 0
    optimality = "D" if not moves else "C" if strict and filled else None
    return Certificate(optimality, change, gap, tolerance, loss, limit_hit, moves)
