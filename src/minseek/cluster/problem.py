"""Conversion of a user's data into points that a backend can cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array, Labels
from minseek.cluster.checks import check_domain, check_finite
from minseek.cluster.divergences import Divergence, SquaredEuclidean
from minseek.cluster.frame import frame_of
from minseek.cluster.kmeans_state import load_kernels, unique_rows
from minseek.cluster.points import Frame, Points, merge_points
from minseek.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Points and divergence in the coordinates that the backend computes in.

    Attributes
    ----------
    points : Points
    divergence : Divergence
        Squared Euclidean if the user's divergence is that of other coordinates, else the user's.
    user_divergence : Divergence
    origin : float64 [d] or None
        Vector subtracted before the change of coordinates; None without such a change.
    """

    points: Points
    divergence: Divergence
    user_divergence: Divergence
    origin: Array | None

    def to_backend(self, centers: Array) -> Array:
        """Convert centers from the user's coordinates to the backend's."""
        return centers if self.origin is None else _to_euclidean(self.user_divergence, centers, self.origin)


def _to_euclidean(divergence: Divergence, x: Array, origin: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        converted = divergence.to_euclidean(x - origin)
    assert converted is not None
    return converted


def prepare(
    x: Any,
    divergence: Divergence,
    weights: NDArray[np.float64] | None,
    *,
    origin: Array | None = None,
    frame: Frame | None = None,
) -> Problem:
    """Check the data and leave out rows of weight zero.

    Parameters
    ----------
    x : array [N, d], C-contiguous, float32 or float64; or CSR
    origin : float64 [d], optional
        Origin of an earlier problem whose coordinates this one must share.
    frame : Frame, optional
        The frame of that problem's points.

    Raises
    ------
    InputError
        If something is not finite or outside the divergence's domain, or the data are sparse and the divergence is
        not squared Euclidean.
    """
    points = Points(x)
    if points.sparse and divergence.name != "squared_euclidean":
        raise InputError(f"sparse data cannot be clustered by the divergence {divergence.name!r}; pass X.toarray().")
    check_finite(x)
    if points.sparse:
        if not x.has_canonical_format:
            x = x.copy()
            x.sum_duplicates()
            points = Points(x)
    else:
        check_domain(divergence, x)
    backend_divergence = divergence
    if divergence.name != "squared_euclidean" and divergence.to_euclidean(np.zeros((1, x.shape[1]))) is not None:
        origin = _mean(x, weights) if origin is None else origin
        points, backend_divergence = Points(_to_euclidean(divergence, x, origin)), SquaredEuclidean()
    else:
        origin = None
    if weights is not None:
        rows = np.flatnonzero(weights > 0)
        if len(rows) < len(weights):
            group = np.full(len(weights), -1, dtype=np.int64)
            group[rows] = np.arange(len(rows))
            points = Points(points.x, rows, weights[rows], group)
        elif (weights != 1).any():
            points = Points(points.x, weights=weights)
    return Problem(replace(points, frame=frame), backend_divergence, divergence, origin)


def _mean(x: NDArray[Any], weights: NDArray[np.float64] | None) -> Array:
    """Mean of the rows of positive weight."""
    used = x if weights is None or (weights > 0).all() else x[weights > 0]
    with np.errstate(over="ignore", invalid="ignore"):
        mean: Array = used.mean(axis=0, dtype=np.float64)
    return mean if np.isfinite(mean).all() else frame_of(Points(used)).origin


def merge_equal_rows(problem: Problem, labels: Labels | None = None) -> Problem:
    """Merge equal rows into one point; given labels of the points, [n], only rows with equal labels."""
    points = problem.points
    group, first = _unique_rows(points)
    if labels is not None:
        key = group * (int(labels.max(initial=0)) + 1) + labels  # labels are below the number of points, so this fits
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
        group = group.reshape(-1)
    return replace(problem, points=merge_points(points, group, first))


def _unique_rows(points: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group equal points: the group of each point, [n], and the first point of each group."""
    library = load_kernels(points)
    if library is not None:
        return unique_rows(points, library)
    if points.sparse:
        groups: dict[bytes, int] = {}
        x = points.x
        group = np.empty(points.count, dtype=np.int64)
        for i, row in enumerate(np.arange(points.count) if points.rows is None else points.rows):
            entries = slice(x.indptr[row], x.indptr[row + 1])
            nonzero = x.data[entries] != 0
            key = x.indices[entries][nonzero].tobytes() + x.data[entries][nonzero].tobytes()
            group[i] = groups.setdefault(key, len(groups))
        first = np.unique(group, return_index=True)[1]
        return group, first
    rows = points.x if points.rows is None else points.x[points.rows]
    _, first, group = np.unique(rows + 0.0, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in order of their first point
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[group.reshape(-1)], first[order]


def find_frame(problem: Problem, x: Any) -> Problem:
    """Give the points of a squared Euclidean problem their frame; x are the data in the user's coordinates.

    Raises
    ------
    InputError
        If squared distances overflow or underflow; names row, column and value.
    """
    if problem.divergence.name != "squared_euclidean":
        return problem
    points = problem.points
    return replace(problem, points=replace(points, frame=frame_of(points, Points(x))))


def cluster_means(problem: Problem, x: Any, labels: NDArray[np.int32], n_clusters: int) -> Array:
    """Weighted means of the rows of x, in the user's coordinates."""
    points = problem.points
    rows = x if points.rows is None else x[points.rows]
    means = np.empty((n_clusters, x.shape[1]))
    for k in range(n_clusters):
        means[k] = np.average(rows[labels == k].astype(np.float64), axis=0, weights=points.weight[labels == k])
    return means
