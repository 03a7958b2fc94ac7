"""The engine in NumPy: any divergence, any machine; block by block, so that the data may be larger than memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from minseek.cluster.backends import Array, Labels, Scan, rounding_noise
from minseek.cluster.divergences import Divergence
from minseek.cluster.points import Points

_BLOCK = 4096  # points a sweep looks through before any of them moves
_FEW = 3  # clusters that a point is first tried in
_FAR = 1e150  # stands for an infinite divergence where sums are compared
_ROUNDING = 64 * np.finfo(np.float64).eps


class PlainEngine:
    """See `Engine`."""

    def __init__(self, points: Points, divergence: Divergence, clusters: int) -> None:
        self.points, self.divergence, self.clusters = points, divergence, clusters
        self.labels = np.full(points.count, -1, dtype=np.int32)
        self.sizes = np.zeros(clusters)
        self._weight = points.weight
        self._free = (
            divergence.name == "squared_euclidean"
        )  # may be shifted: distances then lose no digits far from zero
        self._origin = self._mean() if self._free else np.zeros(points.dims)
        self._step = max(1, min(_BLOCK, 2**22 // max(1, points.dims)))

    def _mean(self) -> Array:
        x, rows = self.points.x, self.points.rows
        if self.points.sparse:
            return np.zeros(self.points.dims)
        return np.asarray((x if rows is None else x[rows]).mean(axis=0, dtype=np.float64))

    def _blocks(self) -> list[NDArray[np.int64]]:
        ids = np.arange(self.points.count)
        return [ids[at : at + self._step] for at in range(0, len(ids), self._step)]

    def _take(self, ids: NDArray[np.int64]) -> Array:
        return self.points.take(ids) - self._origin

    def start(self, centres: Array) -> None:
        self._centres = np.array(centres, dtype=np.float64) - self._origin
        self.labels[:] = -1
        self.sizes[:] = 0
        self._sums = np.zeros_like(self._centres)

    def begin(self, labels: Labels) -> None:
        self._centres = np.zeros((self.clusters, self.points.dims))
        self.labels[:] = labels
        self.refresh()

    def assign(self) -> int:
        self._next = self.labels.copy()
        for ids in self._blocks():
            x, own = self._take(ids), self.labels[ids]
            near = self.divergence.ranked(x, self._centres).argmin(axis=1)
            nearer = self.divergence.between(x, self._centres[near])  # a rank may be off by rounding, this is not
            better = (own < 0) | (nearer < self.divergence.between(x, self._centres[own]) * (1 - _ROUNDING))
            self._next[ids] = np.where(better, near, own)
        return int((self._next != self.labels).sum())

    def label(self) -> None:
        self.labels[:] = self._next

    def settle(self) -> None:
        self.label()
        self._sum_up()

    def put(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        self.labels[points] = clusters
        self._sum_up()

    def _sum_up(self) -> None:
        self._sums[:] = 0
        for ids in self._blocks():
            share = (self._weight[ids], (self.labels[ids], np.arange(len(ids))))
            self._sums += sparse.csr_matrix(share, shape=(self.clusters, len(ids))) @ self._take(ids)
        self.sizes[:] = np.bincount(self.labels, weights=self._weight, minlength=self.clusters)

    def recentre(self) -> None:
        full = self.sizes > 0
        self._centres[full] = self.divergence.inside(self._sums[full] / self.sizes[full, None])

    def refresh(self) -> None:
        self._sums = np.zeros_like(self._centres)
        self._sum_up()
        self.recentre()

    def _moves(self, ids: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """What joining each cluster costs, [m, k], infinite for the own one; what leaving saves, [m]; the points,
        [m, d]."""
        x, weight, own = self._take(ids), self._weight[ids], self.labels[ids]
        saved = self.divergence.leaving(x, weight, self._centres[own], self.sizes[own])
        cost = self.divergence.joining(x, weight, self._centres, self.sizes)
        cost[np.arange(len(ids)), own] = np.inf
        return cost, saved, x

    def sweep(self, tolerance: float) -> int:
        moved = 0
        if (
            not self._free and self.clusters > _FEW + 1
        ):  # where a move mostly goes; what this finds nothing in is swept in full
            moved = sum(self._sweep_block(ids, *self._few_moves(ids), tolerance) for ids in self._blocks())
        return moved or sum(self._sweep_block(ids, *self._moves(ids), tolerance) for ids in self._blocks())

    def _sweep_block(self, ids: NDArray[np.int64], cost: Array, saved: Array, x: Array, tolerance: float) -> int:
        gains = np.flatnonzero(cost.min(axis=1) - saved < -tolerance)
        return sum(self._move(ids[at], x[at], tolerance) for at in gains)

    def _few_moves(self, ids: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """As `_moves`, of the few nearest clusters of each point only."""
        x, weight, own = self._take(ids), self._weight[ids], self.labels[ids]
        ranks = self.divergence.ranked(x, self._centres)
        ranks[np.arange(len(ids)), own] = np.inf
        near = np.argpartition(ranks, _FEW, axis=1)[:, :_FEW]
        cost = self.divergence.joining_some(x, weight, self._centres[near], self.sizes[near])
        cost[near == own[:, None]] = np.inf
        return cost, self.divergence.leaving(x, weight, self._centres[own], self.sizes[own]), x

    def _move(self, i: np.int64, x: Array, tolerance: float) -> bool:
        """Move one point where it is best, if that is still worth while with the centres as they have become."""
        cost, saved, _ = self._moves(np.array([i]))
        to = int(cost[0].argmin())
        if not cost[0, to] - saved[0] < -tolerance:
            return False
        own, weight = self.labels[i], self._weight[i]
        for cluster, sign in ((own, -1.0), (to, 1.0)):
            self.sizes[cluster] += sign * weight
            self._sums[cluster] += sign * weight * x
            self._centres[cluster] = self.divergence.inside(self._sums[cluster] / self.sizes[cluster])
        self.labels[i] = to
        return True

    def scan(self) -> Scan:
        n = self.points.count
        scan = Scan(np.full(n, -1, np.int32), np.full(n, np.inf), np.full(n, np.inf), np.full(n, -1, np.int32))
        if self.clusters == 1:
            return scan
        for ids in self._blocks():
            cost, saved, x = self._moves(ids)
            rows = np.arange(len(ids))
            scan.best[ids] = cost.argmin(axis=1)
            scan.change[ids] = cost.min(axis=1) - saved
            apart = self.divergence.pairwise(x, self._centres)
            own = apart[rows, self.labels[ids]]
            apart[:, self.sizes == 0] = np.inf
            apart[rows, self.labels[ids]] = np.inf
            scan.rival[ids] = apart.argmin(axis=1)
            scan.gap[ids] = apart.min(axis=1) - own
        return scan

    def distances(self) -> Array:
        out = np.empty(self.points.count)
        for ids in self._blocks():
            out[ids] = self.divergence.between(self._take(ids), self._centres[self.labels[ids]])
        return out

    def loss(self) -> float:
        return float(self._weight @ self.distances())

    def noise(self, loss: float) -> float:
        if not self._free:
            return 0.0
        reach = max(float(np.sqrt((self._take(ids) ** 2).sum(axis=1).max())) for ids in self._blocks())
        return rounding_noise(self.points, reach, loss)

    def centres(self) -> Array:
        return self._centres + self._origin

    def changes_of(self, point: int) -> Array:
        cost, saved, _ = self._moves(np.array([point]))
        change = cost[0] - saved[0]
        change[self.labels[point]] = 0.0
        return np.asarray(change)

    def trials(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        total, centres = np.zeros(len(candidates)), self._take(candidates)
        for ids in self._blocks():
            apart = np.minimum(np.minimum(closest[ids, None], _FAR), self.divergence.pairwise(self._take(ids), centres))
            total += self._weight[ids] @ apart
        return total

    def keep(self, candidate: int, closest: Array) -> None:
        centre = self._take(np.array([candidate]))
        for ids in self._blocks():
            apart = self.divergence.pairwise(self._take(ids), centre)[:, 0]
            closest[ids] = np.minimum(np.minimum(closest[ids], apart), _FAR)
