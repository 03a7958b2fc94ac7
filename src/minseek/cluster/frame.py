"""Origin and reach of the data, and the refusal of data whose squared distances do not fit float64."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array
from minseek.cluster.kmeans_state import column_stats, load_kernels
from minseek.cluster.points import Frame, Points
from minseek.errors import InputError

_LIMIT = 2.0**480  # its square, times 2^60 rows or divided by the finest tolerance, still fits float64
_TOO_FAR = "too far from the others: squared distances overflow"
_TOO_NEAR = "the farthest from the mean, yet so near that squared distances underflow"
_STEP = 2**22  # numbers converted at a time


def frame_of(points: Points, shown: Points | None = None) -> Frame:
    """Find the frame of some points, from all their rows of positive weight.

    Parameters
    ----------
    shown : Points, optional
        The same points before a change of coordinates; messages name an entry of theirs.

    Raises
    ------
    InputError
        If squared distances overflow or underflow; names row, column and value.
    """
    shown = points if shown is None else shown
    used = Points(points.x, points.rows if points.group is None else _used_rows(points.group))
    origin, reach = _sparse_reach(used) if points.sparse else _dense_reach(used)
    largest = float(np.max(reach, initial=0.0))
    named = Points(shown.x, used.rows)
    if not largest < _LIMIT:
        _refuse(named, np.zeros(used.dims), f"{_TOO_FAR}; replace or remove it, or")
    unit = float(2.0 ** np.frexp(largest)[1])  # no square underflows
    max_norm = float(np.linalg.norm(reach / unit)) * unit
    if 0 < max_norm < 1 / _LIMIT:
        if not points.sparse and _all_equal(used):
            return Frame(origin, 0.0)  # the mean is off by rounding
        _refuse(named, origin if shown.x is points.x else np.zeros(used.dims), f"{_TOO_NEAR};")
    return Frame(origin, max_norm)


def _all_equal(used: Points) -> bool:
    rows = used.x if used.rows is None else used.x[used.rows]
    return bool((rows == rows[0]).all())


def _used_rows(group: NDArray[np.int64]) -> NDArray[np.int64] | None:
    rows = np.flatnonzero(group >= 0)
    return None if len(rows) == len(group) else rows


def _dense_reach(used: Points) -> tuple[Array, Array]:
    """Mean of each column, and the largest distance from it, [d]; infinite where that overflows."""
    library = load_kernels(used)
    stats = column_stats(used, library) if library is not None else _column_stats(used)
    if stats is None:  # a change of coordinates has overflowed
        return np.zeros(used.dims), np.full(used.dims, np.inf)
    minimum, maximum, origin = stats
    with np.errstate(over="ignore"):
        origin = np.where(np.isfinite(origin), origin, minimum / 2 + maximum / 2)
        return origin, np.maximum(maximum - origin, origin - minimum)


def _column_stats(used: Points) -> tuple[Array, Array, Array] | None:
    rows = used.x if used.rows is None else used.x[used.rows]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = rows.mean(axis=0, dtype=np.float64)
        extremes = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    return (*extremes, mean) if np.isfinite(extremes).all() else None


def _sparse_reach(used: Points) -> tuple[Array, Array]:
    """Zero, and the norm of the longest row, [1]."""
    x = used.x if used.rows is None else used.x[used.rows]
    largest = float(np.abs(x.data).max(initial=0))
    unit = float(2.0 ** min(np.frexp(largest)[1], 1023))
    squares = np.add.reduceat(np.append((x.data.astype(np.float64) / unit) ** 2, 0.0), np.asarray(x.indptr[:-1]))
    squares[np.diff(x.indptr) == 0] = 0.0
    with np.errstate(over="ignore"):
        return np.zeros(used.dims), np.sqrt(squares.max(initial=0.0))[None] * np.float64(unit)


def _refuse(used: Points, center: Array, fault: str) -> NoReturn:
    """Name the entry that is farthest from the center."""
    farthest, point = -1.0, 0
    step = max(1, _STEP // max(1, used.dims))
    for start in range(0, used.count, step):
        gaps = _distances(used, np.arange(start, min(start + step, used.count)), center).max(axis=1, initial=0.0)
        if gaps.max() > farthest:
            farthest, point = float(gaps.max()), start + int(gaps.argmax())
    entry = np.array([point])
    column = int(_distances(used, entry, center).argmax())
    row = point if used.rows is None else int(used.rows[point])
    value = used.take(entry)[0, column]
    raise InputError(f"X has {value:.6g} in row {row}, column {column}, {fault} scale X by a power of ten.")


def _distances(used: Points, points: NDArray[np.int64], center: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.abs(used.take(points) - center))
