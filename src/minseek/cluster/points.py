"""Points to be clustered: the different rows of the data, with their weights added up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows: TypeAlias = Any  # an array [N, d] or a CSR matrix of that shape


@dataclass(frozen=True)
class Frame:
    """Origin and reach of the rows of positive weight; the coordinates that a backend computes in follow from it.

    Attributes
    ----------
    origin : float64 [d]
        Zero for CSR.
    max_norm : float
        No row of positive weight is farther from the origin.
    """

    origin: NDArray[np.float64]
    max_norm: float

    @property
    def scale(self) -> float:
        """A power of two, so that scaling is exact; the scaled rows have a norm of at most one."""
        return float(2.0 ** -np.frexp(self.max_norm)[1]) if self.max_norm > 0 else 1.0

    def without_origin(self) -> Frame:
        """Return the frame of the same rows with its origin at zero, for CSR."""
        return Frame(np.zeros_like(self.origin), self.max_norm + float(np.linalg.norm(self.origin)))


@dataclass(frozen=True)
class Points:
    """n different rows of the data; rows of weight zero are left out, equal ones merged into one point.

    Merging makes the certificate stronger: the loss change of moving a share of a point is concave in that share, so
    if no whole point gains by moving, no single one of its rows does either.

    Attributes
    ----------
    x : array or CSR matrix [N, d]
        The data as given; never copied.
    rows : int64 [n] or None
        Row of `x` that holds each point; if None, point i is row i.
    weights : float64 [n] or None
        Weights of the points; if None, one each.
    group : int64 [N] or None
        Point of each row, -1 for one of weight zero; if None, row i is point i.
    frame : Frame or None
        If None, backends find their own.
    """

    x: Rows
    rows: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None
    frame: Frame | None = None

    @property
    def count(self) -> int:
        return self.x.shape[0] if self.rows is None else len(self.rows)

    @property
    def dims(self) -> int:
        return int(self.x.shape[1])

    @property
    def sparse(self) -> bool:
        return bool(sparse.issparse(self.x))

    @cached_property
    def weight(self) -> NDArray[np.float64]:
        """The weights as an array, [n]."""
        return np.ones(self.count) if self.weights is None else self.weights

    def take(self, points: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Copy some points, float64 [m, d]."""
        rows = points if self.rows is None else self.rows[points]
        found = self.x[rows]
        return np.asarray(found.toarray() if self.sparse else found, dtype=np.float64)

    def labels_of_rows(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Expand labels of the points, [n], to labels of the rows, [N]; -1 for rows of weight zero."""
        if self.group is None:
            return labels
        return np.where(self.group < 0, np.int32(-1), labels[self.group])


def merge_points(points: Points, group: NDArray[np.int64], first: NDArray[np.int64]) -> Points:
    """Merge groups of equal points into one point each.

    Parameters
    ----------
    group : int64 [n]
        Group of each point, 0 ... m - 1.
    first : int64 [m]
        One point of each group.
    """
    if len(first) == points.count:
        return points
    rows = first if points.rows is None else points.rows[first]
    weights = np.bincount(group, weights=points.weights, minlength=len(first)).astype(np.float64)
    if points.group is None:
        return Points(points.x, rows, weights, group)
    return Points(points.x, rows, weights, np.where(points.group < 0, -1, group[points.group]))
