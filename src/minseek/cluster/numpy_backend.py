"""Backend in NumPy for any divergence on any machine; in blocks, so that the data may be larger than memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from minseek.cluster.backend import Array, Labels, MoveScan, move_rounding_error
from minseek.cluster.checks import check_reach
from minseek.cluster.divergences import Divergence
from minseek.cluster.frame import frame_of
from minseek.cluster.points import Points

_BLOCK = 4096  # points that a sweep inspects before any of them moves
_FEW = 3  # clusters that a point is first compared with
_FAR = 1e150  # replaces an infinite divergence where sums are compared
FAR = 2.0**20  # times max_norm: rows farther than this are compared in coordinates of their own
_ROUNDING = 64 * np.finfo(np.float64).eps


class NumpyBackend:
    """`Backend` for any divergence, without bounds."""

    def __init__(self, points: Points, divergence: Divergence, n_clusters: int) -> None:
        self.points, self.divergence, self.n_clusters = points, divergence, n_clusters
        self.labels = np.full(points.count, -1, dtype=np.int32)
        self.sizes = np.zeros(n_clusters)
        self._weight = points.weight
        # Distances lose no digits far from zero if the origin is shifted, which only this divergence permits.
        self._euclidean = divergence.name == "squared_euclidean"
        self._origin, self._max_norm = np.zeros(points.dims), 0.0
        if self._euclidean:
            frame = points.frame or frame_of(points)
            self._origin, self._max_norm = frame.origin, frame.max_norm
        self._far = np.inf if self._euclidean else _FAR
        self._step = max(1, min(_BLOCK, 2**22 // max(1, points.dims)))

    def _blocks(self) -> list[NDArray[np.int64]]:
        ids = np.arange(self.points.count)
        return [ids[start : start + self._step] for start in range(0, len(ids), self._step)]

    def _take(self, ids: NDArray[np.int64]) -> Array:
        return self.points.take(ids) - self._origin

    def set_centers(self, centers: Array) -> None:
        self._centers = np.array(centers, dtype=np.float64) - self._origin
        if self._euclidean:
            check_reach(self._centers, centers, self._max_norm)
        self.labels[:] = -1
        self.sizes[:] = 0
        self._sums = np.zeros_like(self._centers)

    def set_labels(self, labels: Labels) -> None:
        self._centers = np.zeros((self.n_clusters, self.points.dims))
        self.labels[:] = labels
        self.recompute_sums()

    def assign(self) -> int:
        self._labels_new = self.labels.copy()
        for ids in self._blocks():
            x, labels = self._take(ids), self.labels[ids]
            nearest = self.divergence.ranking(x, self._centers).argmin(axis=1)
            divergence = self.divergence.between(x, self._centers[nearest])  # unlike ranks, not off by cancellation
            own_divergence = self.divergence.between(x, self._centers[labels])
            better = (labels < 0) | (divergence < own_divergence * (1 - _ROUNDING))
            self._labels_new[ids] = np.where(better, nearest, labels)
        return int((self._labels_new != self.labels).sum())

    def accept_assignment(self) -> None:
        self.labels[:] = self._labels_new

    def apply_assignment(self) -> None:
        self.accept_assignment()
        self._update_sums()

    def move_points(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        self.labels[points] = clusters
        self._update_sums()

    def _update_sums(self) -> None:
        self._sums[:] = 0
        for ids in self._blocks():
            share = (self._weight[ids], (self.labels[ids], np.arange(len(ids))))
            self._sums += sparse.csr_matrix(share, shape=(self.n_clusters, len(ids))) @ self._take(ids)
        self.sizes[:] = np.bincount(self.labels, weights=self._weight, minlength=self.n_clusters)

    def update_centers(self) -> None:
        filled = self.sizes > 0
        self._centers[filled] = self.divergence.clip_to_domain(self._sums[filled] / self.sizes[filled, None])

    def recompute_sums(self) -> None:
        self._sums = np.zeros_like(self._centers)
        self._update_sums()
        self.update_centers()

    def _move_costs(self, ids: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Cost of joining each cluster, [m, k], infinite for the own one; gain of leaving, [m]; the points, [m, d]."""
        x, weight, labels = self._take(ids), self._weight[ids], self.labels[ids]
        gain = self.divergence.removal_gain(x, weight, self._centers[labels], self.sizes[labels])
        cost = self.divergence.insertion_cost(x, weight, self._centers, self.sizes)
        cost[np.arange(len(ids)), labels] = np.inf
        return cost, gain, x

    def _move_costs_of_nearest(self, ids: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Cost of joining each of the few nearest clusters, [m, few]; the rest as in `_move_costs`."""
        x, weight, labels = self._take(ids), self._weight[ids], self.labels[ids]
        ranks = self.divergence.ranking(x, self._centers)
        ranks[np.arange(len(ids)), labels] = np.inf
        nearest = np.argpartition(ranks, _FEW, axis=1)[:, :_FEW]
        cost = self.divergence.insertion_cost_of(x, weight, self._centers[nearest], self.sizes[nearest])
        cost[nearest == labels[:, None]] = np.inf
        return cost, self.divergence.removal_gain(x, weight, self._centers[labels], self.sizes[labels]), x

    def sweep(self, tolerance: float) -> int:
        moved = 0
        if not self._euclidean and self.n_clusters > _FEW + 1:  # a full sweep follows only if this one finds nothing
            moved = sum(self._sweep_block(i, *self._move_costs_of_nearest(i), tolerance) for i in self._blocks())
        return moved or sum(self._sweep_block(ids, *self._move_costs(ids), tolerance) for ids in self._blocks())

    def _sweep_block(self, ids: NDArray[np.int64], cost: Array, gain: Array, x: Array, tolerance: float) -> int:
        gaining = np.flatnonzero(cost.min(axis=1) - gain < -tolerance)
        return sum(self._move(ids[k], x[k], tolerance) for k in gaining)

    def _move(self, i: np.int64, x: Array, tolerance: float) -> bool:
        """Make the best move of one point if it still gains with the current centers."""
        cost, gain, _ = self._move_costs(np.array([i]))
        target = int(cost[0].argmin())
        if not cost[0, target] - gain[0] < -tolerance:
            return False
        for cluster, weight in ((self.labels[i], -self._weight[i]), (target, self._weight[i])):
            self.sizes[cluster] += weight
            self._sums[cluster] += weight * x
            self._centers[cluster] = self.divergence.clip_to_domain(self._sums[cluster] / self.sizes[cluster])
        self.labels[i] = target
        return True

    def scan_moves(self) -> MoveScan:
        n = self.points.count
        scan = MoveScan(np.full(n, -1, np.int32), np.full(n, np.inf), np.full(n, np.inf), np.full(n, -1, np.int32))
        if self.n_clusters == 1:
            return scan
        for ids in self._blocks():
            cost, gain, x = self._move_costs(ids)
            rows, labels = np.arange(len(ids)), self.labels[ids]
            scan.target[ids] = cost.argmin(axis=1)
            scan.change[ids] = cost.min(axis=1) - gain
            divergence = self.divergence.pairwise(x, self._centers)
            own_divergence = divergence[rows, labels]
            divergence[:, self.sizes == 0] = np.inf
            divergence[rows, labels] = np.inf
            scan.nearest_other[ids] = divergence.argmin(axis=1)
            scan.gap[ids] = divergence.min(axis=1) - own_divergence
        return scan

    def distances(self) -> Array:
        out = np.empty(self.points.count)
        for ids in self._blocks():
            out[ids] = self.divergence.between(self._take(ids), self._centers[self.labels[ids]])
        return out

    def loss(self) -> float:
        return float(self._weight @ self.distances())

    def rounding_error(self, loss: float) -> float:
        if not self._euclidean:
            return 0.0
        merged = self.points.count > int(np.count_nonzero(self.sizes))
        return move_rounding_error(self.points, self._max_norm, loss, merged=merged)

    def centers(self) -> Array:
        return self._centers + self._origin

    def move_changes(self, point: int) -> Array:
        cost, gain, _ = self._move_costs(np.array([point]))
        change = cost[0] - gain[0]
        change[self.labels[point]] = 0.0
        return np.asarray(change)

    def nearest(self) -> tuple[Labels, Array]:
        labels, out = np.empty(self.points.count, np.int32), np.empty(self.points.count)
        for ids in self._blocks():
            if self._euclidean:
                pairs = self.pairwise(slice(ids[0], ids[-1] + 1))
                labels[ids], out[ids] = pairs.argmin(axis=1), pairs.min(axis=1)
            else:
                labels[ids], out[ids] = self._nearest_by_rank(self._take(ids))
        labels[out < 0] = -1
        return labels, out

    def _nearest_by_rank(self, x: Array) -> tuple[NDArray[np.int64], Array]:
        """The nearest center by divergence among those whose ranks differ by little more than rounding."""
        ranks = self.divergence.ranking(x, self._centers)
        labels = ranks.argmin(axis=1)
        lowest, largest = ranks.min(axis=1, keepdims=True), np.abs(ranks).max(axis=1, keepdims=True)
        near = ~(ranks > lowest + 1e-9 * largest)  # ranks of one row and of many differ in their last digits
        close = np.flatnonzero(near.sum(axis=1) > 1)
        if len(close):
            pairs = self.divergence.pairwise(x[close], self._centers)
            labels[close] = np.where(near[close], pairs, np.inf).argmin(axis=1)
        return labels, self.divergence.between(x, self._centers[labels])

    def pairwise(self, points: slice) -> Array:
        ids = np.arange(*points.indices(self.points.count))
        with np.errstate(over="ignore", invalid="ignore"):
            x = self._take(ids)
            pairs = self.divergence.pairwise(x, self._centers)
            if self._euclidean:
                pairs[~(np.abs(x).max(axis=1, initial=0) <= FAR * self._max_norm)] = -1
        return pairs

    def candidate_costs(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        costs, centers = np.zeros(len(candidates)), self._take(candidates)
        for ids in self._blocks():
            divergence = self.divergence.pairwise(self._take(ids), centers)
            costs += self._weight[ids] @ np.minimum(np.minimum(closest[ids, None], self._far), divergence)
        return costs

    def add_center(self, candidate: int, closest: Array) -> None:
        center = self._take(np.array([candidate]))
        for ids in self._blocks():
            divergence = self.divergence.pairwise(self._take(ids), center)[:, 0]
            closest[ids] = np.minimum(np.minimum(closest[ids], divergence), self._far)
