"""Backend in C for squared Euclidean distances: dense data of float32 or float64, or CSR."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array, Labels, MoveScan, move_rounding_error
from minseek.cluster.checks import check_reach
from minseek.cluster.frame import frame_of
from minseek.cluster.kmeans_state import KMeansState, bind_data
from minseek.cluster.points import Points

PACK = 16  # centers that the kernels compute with at a time
_BLOCK = 4096  # points
# Multiplications a pass below which threads save a quarter at best, and cost ten times as much where other programs
# hold a processor (docs/lab-notes.md).
_SINGLE_THREADED = 6_000_000


class CBackend:
    """`Backend` for squared Euclidean distances, computed by the kernels.

    Internal coordinates are ``(x - origin) * scale`` with a power of two as scale, so that nothing overflows or
    underflows and distances far from zero lose no digits. Results are in the coordinates of the data.
    """

    def __init__(self, points: Points, n_clusters: int, library: ctypes.CDLL, n_threads: int | None = None) -> None:
        self.points, self.n_clusters, self._library, self._state = points, n_clusters, library, KMeansState()
        state, n, d = self._state, points.count, points.dims
        self._keep = bind_data(state, points)
        self._choose_coordinates()
        packs = -(-n_clusters // PACK)
        max_groups = max(4, -(-points.x.dtype.itemsize * d // 4))  # bounds take no more memory than dense data
        width = -(-packs // max_groups)
        groups = -(-packs // width)
        state.n_clusters, state.n_packs, state.packs_per_group, state.n_groups = n_clusters, packs, width, groups
        operations = n * n_clusters * (points.x.nnz / max(1, n) if points.sparse else d)
        state.n_threads = n_threads or (1 if operations < _SINGLE_THREADED else _default_threads())
        state.scratch_bytes = library.thread_scratch_bytes(ctypes.byref(state))
        self._set_rounding_errors()
        real = np.float32 if library.real_bytes() == 4 else np.float64
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, shape, dtype in (
            ("labels", n, np.int32),
            ("labels_new", n, np.int32),
            ("cluster_sums", (n_clusters, d), np.float64),
            ("weight_in_clusters", n_clusters, np.float64),
            ("cluster_counts", n_clusters, np.int64),
            ("centers", (n_clusters, d), np.float64),
            *((("centers_squared_norms", packs * PACK, np.float64),) if points.sparse else ()),
            ("centers_packed", packs * d * PACK, real),
            ("weight_in_clusters_packed", packs * PACK, real),
            ("upper_bounds", n, np.float32),
            ("lower_bounds", (n, groups), np.float32),
            ("lower_bounds_all", n, np.float32),
            ("point_clock", n, np.int32),
            ("cluster_clock", n_clusters, np.int32),
            ("group_clock", groups, np.int32),
            ("center_shift_total", n_clusters, np.float64),
            ("center_shift_block", n_clusters, np.float64),
            ("group_shift_total", groups, np.float64),
            ("group_shift_block", groups, np.float64),
            ("bound_slack", groups, np.float64),
            ("group_min_weight", groups, np.float64),
            ("block_sums", (-(-n // _BLOCK), PACK), np.float64),
            ("flagged", _BLOCK, np.int64),
            ("may_gain", _BLOCK, np.uint8),
            ("scratch", (state.n_threads, state.scratch_bytes), np.uint8),
        ):
            self._bind(name, _aligned_zeros(shape, dtype))
        self.labels, self.sizes = self._arrays["labels"], self._arrays["weight_in_clusters"]

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = array
        setattr(self._state, name, array.ctypes.data)

    def _choose_coordinates(self) -> None:
        """Set origin, scale and max_norm."""
        state, points = self._state, self.points
        frame = points.frame or frame_of(points)
        self._frame = frame.without_origin() if points.sparse and frame.origin.any() else frame
        self._origin, self._scale = self._frame.origin, self._frame.scale
        self._scale_sq = self._scale**2
        state.scale, state.max_norm = self._scale, self._frame.max_norm * self._scale
        if not points.sparse:
            state.origin = self._origin.ctypes.data

    def _set_rounding_errors(self) -> None:
        """Bound the difference between computed and true squared distances.

        Dense: coordinates rounded to unit u move a distance by at most 2 u max_norm, the sum has d + 3 roundings, and
        ``(a - b)^2 >= (1 - e) a^2 - b^2 / e``. CSR: the terms of the square are at most max_norm^2 and cancel.
        """
        state, wide = self._state, self._library.real_bytes() == 8
        unit = float(np.finfo(np.float64 if wide else np.float32).eps)
        if self.points.sparse:
            longest = int(np.diff(self.points.x.indptr).max(initial=0))
            state.error_rel, state.error_abs = 16 * unit, (4 * longest + 64) * unit * state.max_norm**2
            state.f64_error = state.error_abs
        else:
            share = 2.0**-26 if wide else 2.0**-12
            state.error_rel = 1 - (1 - (self.points.dims + 8) * unit) * (1 - share)
            state.error_abs = (2.1 * unit * state.max_norm) ** 2 / share

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, name)(ctypes.byref(self._state), *arguments)

    def _reset_bounds(self) -> None:
        for name in ("center_shift_total", "center_shift_block", "group_shift_total", "group_shift_block"):
            self._arrays[name][:] = 0
        self._state.shift_total_all = self._state.shift_block_all = 0.0
        self._arrays["upper_bounds"][:] = np.inf
        self._arrays["lower_bounds"][:] = self._arrays["lower_bounds_all"][:] = -np.inf

    def _write_centers(self, centers: Array) -> None:
        internal = (np.asarray(centers, dtype=np.float64) - self._origin) * self._scale
        check_reach(internal, centers, self._state.max_norm)
        self._arrays["centers"][:] = internal
        self._arrays["cluster_sums"][:] = internal  # as if each were a cluster of weight one, until points are assigned
        self._state.max_norm = max(self._state.max_norm, float(np.sqrt((internal**2).sum(axis=1).max(initial=0.0))))
        self._set_rounding_errors()
        self.sizes[:] = 1.0
        if self.points.sparse:
            self._arrays["centers_squared_norms"][: self.n_clusters] = (internal**2).sum(axis=1)
        self._call("pack_centers")

    def set_centers(self, centers: Array) -> None:
        self._write_centers(centers)
        self.labels[:] = -1
        self._reset_bounds()

    def set_labels(self, labels: Labels) -> None:
        self.set_centers(np.broadcast_to(self._origin, (self.n_clusters, self.points.dims)))
        self.labels[:] = labels
        self.recompute_sums()
        self._reset_bounds()

    def assign(self) -> int:
        return int(self._call("assign"))

    def accept_assignment(self) -> None:
        labels = self._arrays["labels_new"]
        if labels.min(initial=0) < 0:  # no kernel may see such a label
            raise RuntimeError(f"no center is nearest to row {int(labels.argmin())}")
        self.labels[:] = labels

    def nearest(self) -> tuple[Labels, Array]:
        out = np.empty(self.points.count)
        self._state.distances_sq = out.ctypes.data
        self._call("nearest")
        out /= self._scale_sq
        return self._arrays["labels_new"].copy(), out

    def pairwise(self, points: slice) -> Array:
        first, end, _ = points.indices(self.points.count)
        out = np.empty((end - first, self.n_clusters))
        self._call("pairwise_distances_sq", c_int64(first), c_int64(end - first), c_void_p(out.ctypes.data))
        out /= self._scale_sq
        return out

    def apply_assignment(self) -> None:
        if (self.labels < 0).any():
            self.accept_assignment()
            self._call("recompute_sums")
        else:
            self._call("apply_assignment")

    def move_points(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        labels = self._arrays["labels_new"]
        labels[:] = self.labels
        labels[points] = clusters
        self._call("apply_assignment")
        self._arrays["upper_bounds"][points] = np.inf
        self._arrays["lower_bounds"][points] = self._arrays["lower_bounds_all"][points] = -np.inf

    def update_centers(self) -> None:
        self._call("update_centers")

    def recompute_sums(self) -> None:
        self._call("recompute_sums")
        self._call("update_centers")
        self._state.max_norm = self._frame.max_norm * self._scale  # means are not farther out than the points
        self._set_rounding_errors()

    def sweep(self, tolerance: float) -> int:
        self._state.tolerance = tolerance * self._scale_sq
        return int(self._call("sweep"))

    def scan_moves(self) -> MoveScan:
        n = self.points.count
        scan = MoveScan(np.empty(n, np.int32), np.empty(n), np.empty(n), np.empty(n, np.int32))
        self._state.move_target, self._state.move_change = scan.target.ctypes.data, scan.change.ctypes.data
        self._state.gap, self._state.nearest_other = scan.gap.ctypes.data, scan.nearest_other.ctypes.data
        self._call("scan_moves")
        scan.change[:] /= self._scale_sq
        scan.gap[:] /= self._scale_sq
        return scan

    def distances(self) -> Array:
        if self.points.sparse:
            self._call("update_centers")  # squares of CSR rows use the sums, which may be newer than the centers
        out = np.empty(self.points.count)
        self._state.distances_sq = out.ctypes.data
        self._call("inertia")
        out /= self._scale_sq
        return out

    def loss(self) -> float:
        self._state.distances_sq = None
        return float(self._call("inertia")) / self._scale_sq

    def rounding_error(self, loss: float) -> float:
        cancelled: float = 4 * self._state.f64_error / self._scale_sq * float(self.points.weight.max())
        merged = self.points.count > int(np.count_nonzero(self.sizes))
        max_norm = self._state.max_norm / self._scale
        return move_rounding_error(self.points, max_norm, loss, merged=merged) + cancelled

    def centers(self) -> Array:
        return np.asarray(self._arrays["centers"] / self._scale + self._origin)

    def move_changes(self, point: int) -> Array:
        x = (self.points.take(np.array([point])) - self._origin) * self._scale
        square = ((x - self._arrays["centers"]) ** 2).sum(axis=1)
        weight, label = self.points.weight[point], int(self.labels[point])
        rest = self.sizes[label] - weight
        singleton = self._arrays["cluster_counts"][label] == 1
        gain = 0.0 if singleton else weight * self.sizes[label] / rest * square[label]
        change = np.where(self.sizes > 0, weight * self.sizes / (self.sizes + weight) * square, 0.0) - gain
        change[label] = 0.0
        return np.asarray(change / self._scale_sq)

    def _set_candidates(self, points: NDArray[np.int64]) -> None:
        """Use some points as the centers, while initial centers are chosen."""
        if len(points) > PACK or self.n_clusters != PACK:
            raise ValueError(f"at most {PACK} candidates are compared at a time")
        self._write_centers(self.points.take(np.resize(points, PACK)))

    def candidate_costs(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        self._set_candidates(candidates)
        costs = np.empty(PACK)
        closest *= self._scale_sq
        self._call("candidate_costs", c_void_p(closest.ctypes.data), c_void_p(costs.ctypes.data))
        closest /= self._scale_sq
        return np.asarray(costs[: len(candidates)] / self._scale_sq)

    def add_center(self, candidate: int, closest: Array) -> None:
        self._set_candidates(np.array([candidate]))
        closest *= self._scale_sq
        self._call("add_center", c_void_p(closest.ctypes.data))
        closest /= self._scale_sq


def _aligned_zeros(shape: Any, dtype: Any) -> NDArray[Any]:
    """Allocate zeros that begin at a multiple of 64 bytes."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(count + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    found: NDArray[Any] = memory[start : start + count].view(dtype).reshape(shape)
    return found


def _default_threads() -> int:
    """Number of threads that scikit-learn would use: OMP_NUM_THREADS and threadpool limits count."""
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

    return int(_openmp_effective_n_threads())
