"""The algorithms, each a few lines over the engine's words: Lloyd's, the three of the paper, and the sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minseek.cluster.backends import Array, Engine, empties
from minseek.cluster.certificate import tolerance_for

_CHECK = 32  # passes of Lloyd's in which the loss must have fallen


@dataclass
class Search:
    """How long a search may go on, and how long it went on.

    Attributes
    ----------
    tol : float
        A change of the loss counts from this share of a point's mean loss on.
    limit : int
        Passes over the data that change something, at most.
    passes : int
        Those that were made.
    limit_hit : bool
        Whether the limit ended the search.
    verbose : bool
        Print a line for every pass.
    """

    tol: float
    limit: int
    passes: int = 0
    limit_hit: bool = False
    verbose: bool = False

    def another(self) -> bool:
        """Whether one more pass may change something."""
        self.limit_hit = self.passes >= self.limit
        return not self.limit_hit

    def note(self, kind: str, changed: int) -> None:
        self.passes += changed > 0
        if self.verbose:
            print(f"pass {self.passes} ({kind}): {changed:,} points change", flush=True)

    def tolerance(self, engine: Engine) -> float:
        return tolerance_for(engine, engine.loss(), self.tol)


def _farthest(engine: Engine) -> Iterator[int]:
    """Points by their distance from their centre, as scikit-learn fills empty clusters."""
    yield from np.argsort(-engine.distances(), kind="stable").tolist()


def _first(engine: Engine) -> Iterator[int]:
    """Points in order, as the paper's reference code fills empty clusters."""
    yield from range(engine.points.count)


def fill(engine: Engine, order: Callable[[Engine], Iterator[int]]) -> None:
    """Give every empty cluster a point of one that keeps at least another."""
    empty = empties(engine.sizes)
    if not len(empty):
        return
    members = np.bincount(engine.labels, minlength=len(engine.sizes))
    candidates = order(engine)
    for cluster in empty.tolist():
        for point in candidates:
            if members[engine.labels[point]] > 1:
                members[engine.labels[point]] -= 1
                engine.put(np.array([point]), np.array([cluster]))
                break


def lloyd(engine: Engine, search: Search, order: Callable[[Engine], Iterator[int]] = _first) -> None:
    """Nearest centres and means in turn, until no point changes."""
    fresh, rounds, last = False, 0, np.inf
    while search.another():
        rounds += 1
        if rounds % _CHECK == 0:  # between rows that differ in their last digits, rounding could move points to and fro
            loss = engine.loss()
            if not loss < last:
                engine.refresh()
                return
            last = loss
        changed = engine.assign()
        search.note("Lloyd", changed)
        if not changed and fresh:
            return
        if not changed:  # sums were kept up to date change by change; the result must hold without that rounding
            engine.refresh()
            fresh = True
            continue
        engine.settle()
        fill(engine, order)
        engine.recentre()
        fresh = False


def c_lo(engine: Engine, search: Search) -> None:
    """At a fixed point of Lloyd's, the first tied point goes to its other centre (paper: C-LO-K-means)."""
    while True:
        lloyd(engine, search)
        if search.limit_hit:
            return
        near = search.tolerance(engine) * engine.points.count / engine.points.weight.sum()
        scan = engine.scan()
        tied = np.flatnonzero(scan.gap <= near)
        if not len(tied):
            return
        engine.put(tied[:1], scan.rival[tied[:1]].astype(np.int64))
        engine.recentre()


def _one_move(choose: Callable[[Engine, Array, float], tuple[int, int]]) -> Callable[[Engine, Search], None]:
    def algorithm(engine: Engine, search: Search) -> None:
        while True:
            lloyd(engine, search)
            if search.limit_hit:
                return
            tolerance = search.tolerance(engine)
            change = engine.scan().change
            if not (change < -tolerance).any():
                return
            point, cluster = choose(engine, change, tolerance)
            engine.put(np.array([point]), np.array([cluster]))
            engine.recentre()

    return algorithm


def _first_gain(engine: Engine, change: Array, tolerance: float) -> tuple[int, int]:
    point = int(np.flatnonzero(change < -tolerance)[0])
    return point, int(np.flatnonzero(engine.changes_of(point) < -tolerance)[0])


def _best_gain(engine: Engine, change: Array, tolerance: float) -> tuple[int, int]:
    point = int(change.argmin())
    return point, int(engine.changes_of(point).argmin())


d_lo = _one_move(_first_gain)
"""At a fixed point of Lloyd's, the first gaining move in order of points and clusters (paper: D-LO-K-means)."""
min_d_lo = _one_move(_best_gain)
"""At a fixed point of Lloyd's, the move that gains most (paper: Min-D-LO-K-means)."""


def sweep(engine: Engine, search: Search) -> None:
    """Lloyd's to convergence, then sweeps in which every point moves at once where that gains, until none does.

    Source: Hartigan's rule for Bregman divergences: Slonim, Aharoni, Crammer, *Hartigan's K-Means Versus Lloyd's
    K-Means*, IJCAI 2013. Every move lowers the loss by more than the tolerance, so no clustering comes back and the
    search ends.
    """
    lloyd(engine, search, _farthest)
    if search.limit_hit:
        return
    tolerance, fresh = search.tolerance(engine), True
    while search.another():
        moved = engine.sweep(tolerance)
        search.note("sweep", moved)
        if moved:
            fresh = False
        elif fresh:
            return
        else:
            engine.refresh()
            tolerance, fresh = search.tolerance(engine), True


ALGORITHMS: dict[str, Callable[[Engine, Search], None]] = {
    "lloyd": lloyd,
    "c-lo": c_lo,
    "d-lo": d_lo,
    "min-d-lo": min_d_lo,
    "sweep": sweep,
}
