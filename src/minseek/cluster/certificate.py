"""The proof that a clustering is locally optimal, or the moves that refute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minseek.cluster.backend import Backend, empty_clusters
from minseek.errors import InputError

_FINEST = 2.0**-46  # share of the loss that double precision resolves in a sum of divergences, with a margin


class Move(NamedTuple):
    """Move of one row, with the rows equal to it in its cluster, to another cluster, and the change of the loss."""

    row: int
    source: Any
    target: Any
    change: float


@dataclass(frozen=True)
class Certificate:
    """Local optimality of a clustering, proved or refuted by evaluating every single move of every point.

    Source: Li, Metel, Takeda, *Modified K-means Algorithm with Local Optimality Guarantees*, ICML 2025 (arXiv
    2506.06990): C- and D-local optimality. The tolerance relative to the loss is ours.

    Attributes
    ----------
    optimality : "D", "C" or None
        "D" (discrete): no point lowers the loss by moving to another cluster, both centers following; this implies
        "C". "C" (continuous): every point is strictly nearest to its own center, so the assignment is a local
        minimum even if points may be shared between clusters. None: neither.
    smallest_change : float
        The smallest change of the loss over all single moves; negative if one of them gains, inf for a single
        cluster.
    smallest_gap : float
        The smallest difference, over all points, between the divergence to the nearest other center and to the own
        one; inf for a single cluster.
    tolerance : float
        Decreases of the loss up to this count as none: ``loss * max(tol / n, 2**-46)`` for n different rows, or the
        bound on rounding errors if that is larger (rows that differ only in their last digits).
    loss : float
        Sum of weights times divergences to the own centers.
    limit_hit : bool
        True if `max_iter` ended the search.
    moves : tuple of Move
        The best move of every point that gains by one, the greatest gain first; empty when D-local.
    empty_clusters : tuple of range
        The empty clusters, for `verify` with a number of clusters.
    """

    optimality: str | None
    smallest_change: float
    smallest_gap: float
    tolerance: float
    loss: float
    limit_hit: bool = False
    moves: tuple[Move, ...] = ()
    empty_clusters: tuple[range, ...] = ()

    def __str__(self) -> str:
        if self.optimality == "D":
            proof = "D-local optimum: no single move lowers the loss"
        elif self.optimality == "C":
            proof = f"C-local, but not D-local: {len(self.moves)} points gain by moving"
        else:
            proof = f"not a local optimum: {len(self.moves)} points gain by moving"
        limit = "; max_iter was reached" if self.limit_hit else ""
        figures = f"smallest change {self.smallest_change:.3g}, tolerance {self.tolerance:.3g}, loss {self.loss:.6g}"
        return f"{proof} ({figures}){limit}{self._empty_clusters_text()}"

    def _empty_clusters_text(self) -> str:
        spans = [f"{r[0]}-{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in self.empty_clusters]
        if not spans:
            return ""
        is_single = len(spans) == 1 and len(self.empty_clusters[0]) == 1
        return f"; cluster {spans[0]} is empty" if is_single else f"; clusters {', '.join(spans)} are empty"


def tolerance_for(backend: Backend, loss: float, tol: float) -> float:
    """Change of the loss that counts: relative to a point's mean loss, but not finer than rounding."""
    return max(loss * max(tol / backend.points.count, _FINEST), backend.rounding_error(loss))


def certify(backend: Backend, tol: float, *, limit_hit: bool = False) -> Certificate:
    """Evaluate every single move of the backend's clustering."""
    loss = backend.loss()
    n = backend.points.count
    if not np.isfinite(loss):
        farthest = int(np.nan_to_num(backend.distances(), nan=np.inf).argmax())
        row = farthest if backend.points.rows is None else int(backend.points.rows[farthest])
        raise InputError(f"the loss is {loss}: row {row} is too far from its center for float64; scale X or weights.")
    tolerance = tolerance_for(backend, loss, tol)
    scan = backend.scan_moves()
    change, gap = float(scan.change.min(initial=np.inf)), float(scan.gap.min(initial=np.inf))
    gaining = np.flatnonzero(scan.change < -tolerance)
    gaining = gaining[np.argsort(scan.change[gaining], kind="stable")]
    rows = gaining if backend.points.rows is None else backend.points.rows[gaining]
    columns = (rows, backend.labels[gaining], scan.target[gaining], scan.change[gaining])
    moves = tuple(Move(*entry) for entry in zip(*(c.tolist() for c in columns), strict=True))
    strict = gap > tolerance * n / float(backend.points.weight.sum())
    filled = not len(empty_clusters(backend.sizes)) or loss <= 0
    optimality = "D" if not moves else "C" if strict and filled else None
    return Certificate(optimality, change, gap, tolerance, loss, limit_hit, moves)
