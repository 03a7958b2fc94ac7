"""The engine in C for squared Euclidean distances: dense data of float32 or float64, or CSR."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backends import Array, Labels, Scan, rounding_noise
from minseek.cluster.points import Points
from minseek.cluster.work import Work, describe, survey

GROUP = 16  # centres that the kernels compute with at a time
_SMALL = 400_000  # multiplications a pass below which threads cost more than they bring


class NativeEngine:
    """See `Engine`. Coordinates inside are ``(x - origin) * scale`` with a power of two as scale, so that nothing
    overflows or underflows and distances far from zero lose no digits; what comes out is in the data's own."""

    def __init__(self, points: Points, clusters: int, library: ctypes.CDLL, threads: int | None = None) -> None:
        self.points, self.clusters, self._library, self._work = points, clusters, library, Work()
        work, n, d = self._work, points.count, points.dims
        self._hold = describe(work, points)
        self._place()
        groups = -(-clusters // GROUP)
        most = max(4, -(-points.x.dtype.itemsize * d // 4))  # bounds take no more memory than dense data
        width = -(-groups // most)
        work.clusters, work.groups, work.width, work.spans = clusters, groups, width, -(-groups // width)
        operations = n * clusters * (points.x.nnz / max(1, n) if points.sparse else d)
        work.threads = 1 if operations < _SMALL else threads or _threads()
        self._allow_for_rounding()
        calc = np.float32 if library.calc_bytes() == 4 else np.float64
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, shape, dtype in (
            ("labels", n, np.int32),
            ("next", n, np.int32),
            ("sums", (clusters, d), np.float64),
            ("sizes", clusters, np.float64),
            ("counts", clusters, np.int64),
            ("centres", (clusters, d), np.float64),
            *((("squares", groups * GROUP, np.float64),) if points.sparse else ()),
            ("lanes", groups * d * GROUP, calc),
            ("bulks", groups * GROUP, calc),
            ("upper", n, np.float32),
            ("lower", (n, work.spans), np.float32),
            ("lowest", n, np.float32),
            ("seen", n, np.int32),
            ("changed", clusters, np.int32),
            ("stamp", work.spans, np.int32),
            ("path", clusters, np.float64),
            ("stride", clusters, np.float64),
            *((name, work.spans, np.float64) for name in ("drift", "slack", "recent", "lightest")),
        ):
            self._set(name, _aligned(shape, dtype))
        self.labels, self.sizes = self._arrays["labels"], self._arrays["sizes"]

    def _set(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        self._arrays[name] = array
        setattr(self._work, name, array.ctypes.data)
        return array

    def _place(self) -> None:
        """Choose origin and scale."""
        work, points = self._work, self.points
        if points.sparse:
            self._origin = np.zeros(points.dims)
            starts = np.asarray(points.x.indptr[:-1])
            squares = np.add.reduceat(np.append(points.x.data.astype(np.float64) ** 2, 0.0), starts)
            squares[np.diff(points.x.indptr) == 0] = 0.0
            reach = float(np.sqrt(squares.max(initial=0.0)))
        else:
            found = survey(points, self._library)
            if found is None:
                raise ValueError("the data hold something that is not a finite number")  # callers have checked
            least, greatest, self._origin = found
            reach = float(np.linalg.norm(np.maximum(greatest - self._origin, self._origin - least)))
        self._scale = float(2.0 ** -np.frexp(reach)[1]) if reach > 0 else 1.0  # a power of two: exact
        self._square = self._scale**2
        work.scale, work.reach = self._scale, reach * self._scale
        if not points.sparse:
            work.origin = self._origin.ctypes.data

    def _allow_for_rounding(self) -> None:
        """How far a computed square may be from the true one.

        Dense: coordinates that are rounded to u move a distance by at most 2 u reach, the sum has d + 3 roundings, and
        ``(a - b)^2 >= (1 - e) a^2 - b^2 / e``. CSR: the terms of the square are at most reach^2 and cancel.
        """
        work, wide = self._work, self._library.calc_bytes() == 8
        unit = float(np.finfo(np.float64 if wide else np.float32).eps)
        if self.points.sparse:
            longest = int(np.diff(self.points.x.indptr).max(initial=0))
            work.shrink, work.blur = 1 - 16 * unit, (4 * longest + 64) * unit * work.reach**2
            work.haze = work.blur
        else:
            share = 2.0**-26 if wide else 2.0**-12
            work.shrink = (1 - (self.points.dims + 8) * unit) * (1 - share)
            work.blur = (2.1 * unit * work.reach) ** 2 / share

    def _call(self, name: str, *more: Any) -> Any:
        return getattr(self._library, name)(ctypes.byref(self._work), *more)

    def _forget(self) -> None:
        """No bound is known."""
        for name in ("path", "stride", "drift", "recent"):
            self._arrays[name][:] = 0
        self._work.drift_all = self._work.recent_all = 0.0
        self._arrays["upper"][:] = np.inf
        self._arrays["lower"][:] = self._arrays["lowest"][:] = -np.inf

    def _put_centres(self, centres: Array) -> None:
        staged = (np.asarray(centres, dtype=np.float64) - self._origin) * self._scale
        self._arrays["centres"][:] = staged
        self._arrays["sums"][:] = staged  # as if each were a cluster of weight one, until points have chosen
        self._work.reach = max(self._work.reach, float(np.sqrt((staged**2).sum(axis=1).max(initial=0.0))))
        self._allow_for_rounding()
        self.sizes[:] = 1.0
        if self.points.sparse:
            self._arrays["squares"][: self.clusters] = (staged**2).sum(axis=1)
        self._call("lay_out")

    def start(self, centres: Array) -> None:
        self._put_centres(centres)
        self.labels[:] = -1
        self._forget()

    def begin(self, labels: Labels) -> None:
        self.start(np.broadcast_to(self._origin, (self.clusters, self.points.dims)))
        self.labels[:] = labels
        self.refresh()
        self._forget()

    def assign(self) -> int:
        return int(self._call("assign"))

    def label(self) -> None:
        self.labels[:] = self._arrays["next"]

    def settle(self) -> None:
        if (self.labels < 0).any():
            self.label()
            self._call("sum_up")
        else:
            self._call("settle")

    def put(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        following = self._arrays["next"]
        following[:] = self.labels
        following[points] = clusters
        self._call("settle")
        self._arrays["upper"][points] = np.inf
        self._arrays["lower"][points] = self._arrays["lowest"][points] = -np.inf

    def recentre(self) -> None:
        self._call("recentre")

    def refresh(self) -> None:
        self._call("sum_up")
        self._call("recentre")

    def sweep(self, tolerance: float) -> int:
        self._work.tolerance = tolerance * self._square
        return int(self._call("sweep"))

    def scan(self) -> Scan:
        n = self.points.count
        scan = Scan(np.empty(n, np.int32), np.empty(n), np.empty(n), np.empty(n, np.int32))
        for name in ("best", "change", "gap", "rival"):
            setattr(self._work, name, getattr(scan, name).ctypes.data)
        self._call("scan")
        scan.change[:] /= self._square
        scan.gap[:] /= self._square
        return scan

    def distances(self) -> Array:
        if self.points.sparse:
            self._call("recentre")  # squares there are of sums, which may have changed since the centres were made
        out = np.empty(self.points.count)
        self._work.gap = out.ctypes.data
        self._call("spread")
        out /= self._square
        return out

    def loss(self) -> float:
        self._work.gap = None
        return float(self._call("spread")) / self._square

    def noise(self, loss: float) -> float:
        cancelled: float = 4 * self._work.haze / self._square * float(self.points.weight.max())
        return rounding_noise(self.points, self._work.reach / self._scale, loss) + cancelled

    def centres(self) -> Array:
        return np.asarray(self._arrays["centres"] / self._scale + self._origin)

    def changes_of(self, point: int) -> Array:
        x = (self.points.take(np.array([point])) - self._origin) * self._scale
        square = ((x - self._arrays["centres"]) ** 2).sum(axis=1)
        weight, own = self.points.weight[point], int(self.labels[point])
        rest = self.sizes[own] - weight
        saved = 0.0 if self._arrays["counts"][own] == 1 else weight * self.sizes[own] / rest * square[own]
        change = np.where(self.sizes > 0, weight * self.sizes / (self.sizes + weight) * square, 0.0) - saved
        change[own] = 0.0
        return np.asarray(change / self._square)

    def _candidates(self, ids: NDArray[np.int64]) -> None:
        """Let centres be some points; only for choosing start centres."""
        if len(ids) > GROUP or self.clusters != GROUP:
            raise ValueError("candidates are compared sixteen at a time")
        padded = np.resize(ids, GROUP)
        self._put_centres(self.points.take(padded))

    def trials(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        self._candidates(candidates)
        totals = np.empty(GROUP)
        closest *= self._square
        self._call("trials", c_void_p(closest.ctypes.data), c_void_p(totals.ctypes.data), c_int64(-1))
        closest /= self._square
        return np.asarray(totals[: len(candidates)] / self._square)

    def keep(self, candidate: int, closest: Array) -> None:
        self._candidates(np.array([candidate]))
        closest *= self._square
        self._call("trials", c_void_p(closest.ctypes.data), None, c_int64(0))
        closest /= self._square


def _aligned(shape: Any, dtype: Any) -> NDArray[Any]:
    """Zeros that begin at a multiple of 64 bytes."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(count + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    found: NDArray[Any] = room[start : start + count].view(dtype).reshape(shape)
    return found


def _threads() -> int:
    """As many as scikit-learn would use: OMP_NUM_THREADS and threadpool limits count."""
    from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

    return int(_openmp_effective_n_threads())
