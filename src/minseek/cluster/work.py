"""What the kernels are told about the data, and what they tell about its rows."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_double, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backends import Array
from minseek.cluster.build import library_for
from minseek.cluster.points import Points

# In the order of kernels/work.h.
_COUNTS = "points dims clusters groups spans width threads computed clock".split()  # noqa: SIM905
_NUMBERS = "scale reach shrink blur haze drift_all recent_all lightest_all tolerance".split()  # noqa: SIM905
_ARRAYS = (  # noqa: SIM905
    "x columns starts rows weights origin labels next sums sizes counts centres squares lanes bulks "
    "upper lower lowest seen changed stamp path stride drift slack recent lightest best change gap rival"
).split()


class Work(Structure):
    """`work` of kernels/work.h, field by field."""

    _fields_ = (
        *((name, c_int64) for name in _COUNTS),
        *((name, c_double) for name in _NUMBERS),
        *((name, c_void_p) for name in _ARRAYS),
    )


def kernels_for(points: Points) -> ctypes.CDLL | None:
    """The kernels for this kind of data, where there are any."""
    library = library_for(sparse=points.sparse, double=bool(points.x.dtype == np.float64))
    if library is not None and library.work_bytes() != ctypes.sizeof(Work):
        raise RuntimeError("kernels/work.h and work.py disagree about the fields of work")
    return library


def survey(points: Points, library: ctypes.CDLL) -> tuple[Array, Array, Array] | None:
    """Least, greatest and mean of each column of dense data; None if something is not finite."""
    work = Work()
    hold = describe(work, Points(points.x))
    least, greatest, total = (np.empty(points.dims) for _ in range(3))
    bad = library.survey(ctypes.byref(work), *(c_void_p(a.ctypes.data) for a in (least, greatest, total)))
    del hold
    return None if bad >= 0 else (least, greatest, total / points.x.shape[0])


def distinct(points: Points, library: ctypes.CDLL) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which points are equal: the group of each, and the first point of each group."""
    work = Work()
    hold = describe(work, points)
    group, first = np.empty(points.count, np.int64), np.empty(points.count, np.int64)
    count = library.distinct(ctypes.byref(work), c_void_p(group.ctypes.data), c_void_p(first.ctypes.data))
    del hold
    if count < 0:
        raise MemoryError(f"no memory to compare {points.count} rows")
    return group, first[:count].copy()


def describe(work: Work, points: Points) -> list[Any]:
    """Tell the kernels where the data lie; what is returned must be held as long as they are used."""
    x = points.x
    hold: list[Any] = [points]
    if points.sparse:
        values = np.ascontiguousarray(x.data)
        columns = np.ascontiguousarray(x.indices, dtype=np.int32)
        starts = np.ascontiguousarray(x.indptr, dtype=np.int64)
        work.x, work.columns, work.starts = values.ctypes.data, columns.ctypes.data, starts.ctypes.data
        hold += [values, columns, starts]
    else:
        work.x = x.ctypes.data
    work.points, work.dims, work.scale = points.count, points.dims, 1.0
    work.rows = None if points.rows is None else points.rows.ctypes.data
    work.weights = None if points.weights is None else points.weights.ctypes.data
    return hold
