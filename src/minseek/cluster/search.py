"""Search algorithms over the backend interface: Lloyd's, the paper's three, and sweeps of single moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minseek.cluster.backend import Array, Backend, empty_clusters
from minseek.cluster.certificate import tolerance_for

_LOSS_CHECK_INTERVAL = 32  # passes of Lloyd's in which the loss must have fallen


@dataclass
class Search:
    """Settings and progress of one search.

    Attributes
    ----------
    tol : float
        A change of the loss counts if it exceeds this share of a point's mean loss.
    max_passes : int
        Limit on the passes over the data that change something.
    passes : int
        Passes made so far that changed something.
    limit_hit : bool
        True if the limit ended the search.
    verbose : bool
        Print a line for every pass.
    """

    tol: float
    max_passes: int
    passes: int = 0
    limit_hit: bool = False
    verbose: bool = False

    def may_continue(self) -> bool:
        """True while another pass may change something."""
        self.limit_hit = self.passes >= self.max_passes
        return not self.limit_hit

    def record(self, kind: str, changed: int) -> None:
        """Count a pass in which `changed` points changed their cluster."""
        self.passes += changed > 0
        if self.verbose:
            print(f"pass {self.passes} ({kind}): {changed:,} points change", flush=True)

    def tolerance(self, backend: Backend) -> float:
        """Loss change that counts, at the current loss."""
        return tolerance_for(backend, backend.loss(), self.tol)


def _farthest_first(backend: Backend) -> Iterator[int]:
    """Points by falling distance from their centers; scikit-learn fills empty clusters in this order."""
    yield from np.argsort(-backend.distances(), kind="stable").tolist()


def _in_order(backend: Backend) -> Iterator[int]:
    """Points in order; the paper's reference code fills empty clusters in this order."""
    yield from range(backend.points.count)


def fill_empty_clusters(backend: Backend, order: Callable[[Backend], Iterator[int]]) -> None:
    """Move a point into every empty cluster, from a cluster that keeps at least one."""
    empty = empty_clusters(backend.sizes)
    if not len(empty):
        return
    members = np.bincount(backend.labels, minlength=len(backend.sizes))
    candidates = order(backend)
    for cluster in empty:
        for point in candidates:
            if members[backend.labels[point]] > 1:
                members[backend.labels[point]] -= 1
                backend.move_points(np.array([point]), np.array([cluster]))
                break


def lloyd(backend: Backend, search: Search, order: Callable[[Backend], Iterator[int]] = _in_order) -> None:
    """Alternate nearest centers and means until no point changes."""
    recomputed, rounds, last_loss = False, 0, np.inf
    while search.may_continue():
        rounds += 1
        if rounds % _LOSS_CHECK_INTERVAL == 0:  # rounding could move points back and forth between near-equal rows
            loss = backend.loss()
            if not loss < last_loss:
                backend.recompute_sums()
                return
            last_loss = loss
        changed = backend.assign()
        search.record("Lloyd", changed)
        if not changed and recomputed:
            return
        if not changed:  # incremental sums have rounding errors; the result must hold without them
            backend.recompute_sums()
            recomputed = True
            continue
        backend.apply_assignment()
        fill_empty_clusters(backend, order)
        backend.update_centers()
        recomputed = False


def c_lo(backend: Backend, search: Search) -> None:
    """Lloyd's; at each fixed point, the first tied point moves to its other center (paper: C-LO-K-means)."""
    while True:
        lloyd(backend, search)
        if search.limit_hit:
            return
        tie = search.tolerance(backend) * backend.points.count / backend.points.weight.sum()
        scan = backend.scan_moves()
        tied = np.flatnonzero(scan.gap <= tie)
        if not len(tied):
            return
        backend.move_points(tied[:1], scan.nearest_other[tied[:1]].astype(np.int64))
        backend.update_centers()


def _lloyd_with_single_moves(
    choose: Callable[[Backend, Array, float], tuple[int, int]],
) -> Callable[[Backend, Search], None]:
    def algorithm(backend: Backend, search: Search) -> None:
        while True:
            lloyd(backend, search)
            if search.limit_hit:
                return
            tolerance = search.tolerance(backend)
            change = backend.scan_moves().change
            if not (change < -tolerance).any():
                return
            point, cluster = choose(backend, change, tolerance)
            backend.move_points(np.array([point]), np.array([cluster]))
            backend.update_centers()

    return algorithm


def _first_gain(backend: Backend, change: Array, tolerance: float) -> tuple[int, int]:
    point = int(np.flatnonzero(change < -tolerance)[0])
    return point, int(np.flatnonzero(backend.move_changes(point) < -tolerance)[0])


def _best_gain(backend: Backend, change: Array, tolerance: float) -> tuple[int, int]:
    point = int(change.argmin())
    return point, int(backend.move_changes(point).argmin())


d_lo = _lloyd_with_single_moves(_first_gain)
"""Lloyd's; at each fixed point, the first gaining move in order of points and clusters (paper: D-LO-K-means)."""
min_d_lo = _lloyd_with_single_moves(_best_gain)
"""Lloyd's; at each fixed point, the move that gains most (paper: Min-D-LO-K-means)."""


def sweep(backend: Backend, search: Search) -> None:
    """Lloyd's to convergence, then sweeps in which every point moves at once if that gains, until none does.

    Source: Hartigan's rule for Bregman divergences: Slonim, Aharoni, Crammer, *Hartigan's K-Means Versus Lloyd's
    K-Means*, IJCAI 2013. Every move lowers the loss by more than the tolerance, so no clustering recurs and the
    search ends.
    """
    lloyd(backend, search, _farthest_first)
    if search.limit_hit:
        return
    tolerance, recomputed = search.tolerance(backend), True
    while search.may_continue():
        moved = backend.sweep(tolerance)
        search.record("sweep", moved)
        if moved:
            recomputed = False
        elif recomputed:
            return
        else:
            backend.recompute_sums()
            tolerance, recomputed = search.tolerance(backend), True


ALGORITHMS: dict[str, Callable[[Backend, Search], None]] = {
    "lloyd": lloyd,
    "c-lo": c_lo,
    "d-lo": d_lo,
    "min-d-lo": min_d_lo,
    "sweep": sweep,
}
