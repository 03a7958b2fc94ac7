"""The kernels' state as a ctypes structure, and the kernels that inspect rows without clustering them."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_double, c_int64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array
from minseek.cluster.build import kernel_library
from minseek.cluster.points import Points
from minseek.native import check_struct_sizes

# In the order of kernels/state.h.
_INTEGERS = "n_points n_features n_clusters n_packs n_groups packs_per_group n_threads clock scratch_bytes"
_NUMBERS = "scale max_norm error_rel error_abs f64_error shift_total_all shift_block_all min_weight_all tolerance"
_POINTERS = (
    "x indices indptr row_ids sample_weight origin labels labels_new "
    "cluster_sums weight_in_clusters cluster_counts centers centers_squared_norms "
    "centers_packed weight_in_clusters_packed upper_bounds lower_bounds lower_bounds_all "
    "point_clock cluster_clock group_clock center_shift_total center_shift_block "
    "group_shift_total group_shift_block bound_slack group_min_weight "
    "move_target move_change gap nearest_other distances_sq block_sums flagged may_gain scratch"
)


class KMeansState(Structure):
    """`kmeans_state` of kernels/state.h, field by field."""

    _fields_ = (
        *((name, c_int64) for name in _INTEGERS.split()),
        *((name, c_double) for name in _NUMBERS.split()),
        *((name, c_void_p) for name in _POINTERS.split()),
    )


def load_kernels(points: Points) -> ctypes.CDLL | None:
    """Load the kernels for this kind of data; None if there are none on this machine."""
    library = kernel_library(sparse=points.sparse, double=bool(points.x.dtype == np.float64))
    if library is not None:
        check_struct_sizes(library, {"kmeans_state": KMeansState})
    return library


def bind_data(state: KMeansState, points: Points) -> list[Any]:
    """Point the state at the data; the returned arrays must be kept as long as the state is used."""
    x = points.x
    keep: list[Any] = [points]
    if points.sparse:
        values = np.ascontiguousarray(x.data)
        indices = np.ascontiguousarray(x.indices, dtype=np.int32)
        indptr = np.ascontiguousarray(x.indptr, dtype=np.int64)
        state.x, state.indices, state.indptr = values.ctypes.data, indices.ctypes.data, indptr.ctypes.data
        keep += [values, indices, indptr]
    else:
        state.x = x.ctypes.data
    state.n_points, state.n_features, state.scale = points.count, points.dims, 1.0
    state.row_ids = None if points.rows is None else points.rows.ctypes.data
    state.sample_weight = None if points.weights is None else points.weights.ctypes.data
    return keep


def column_stats(points: Points, library: ctypes.CDLL) -> tuple[Array, Array, Array] | None:
    """Minimum, maximum and mean of each column of dense data, unweighted; None if something is not finite."""
    state = KMeansState()
    keep = bind_data(state, Points(points.x, points.rows))
    minimum, maximum, total = (np.empty(points.dims) for _ in range(3))
    found = library.column_stats(ctypes.byref(state), *(c_void_p(a.ctypes.data) for a in (minimum, maximum, total)))
    del keep
    return None if found >= 0 else (minimum, maximum, total / points.count)


def unique_rows(points: Points, library: ctypes.CDLL) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group equal points: the group of each point, [n], and the first point of each group."""
    state = KMeansState()
    keep = bind_data(state, points)
    group, first = np.empty(points.count, np.int64), np.empty(points.count, np.int64)
    count = library.unique_rows(ctypes.byref(state), c_void_p(group.ctypes.data), c_void_p(first.ctypes.data))
    del keep
    if count < 0:
        raise MemoryError(f"no memory to compare {points.count} rows")
    return group, first[:count].copy()
