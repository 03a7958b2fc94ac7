"""What is clustered: the different rows of the data, with their weights added up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Rows: TypeAlias = Any  # an array [N, d] or a CSR matrix of that shape


@dataclass(frozen=True)
class Points:
    """n different rows of the data; those of weight zero are left out, equal ones are one point.

    Merging is harmless and more: what a cluster loses by giving away a share of a point is concave in that share, so
    when no whole point gains by moving, no single one of its rows does either.

    Attributes
    ----------
    x : array or CSR matrix [N, d]
        The data as they were given; never copied.
    rows : int64 [n] or None
        Where in `x` a point lies; None: point i is row i.
    weights : float64 [n] or None
        None: one each.
    group : int64 [N] or None
        Which point a row is, -1 for one of weight zero; None: row i is point i.
    """

    x: Rows
    rows: NDArray[np.int64] | None = None
    weights: NDArray[np.float64] | None = None
    group: NDArray[np.int64] | None = None

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
        """Some points as they are, float64 [m, d]."""
        rows = points if self.rows is None else self.rows[points]
        found = self.x[rows]
        return np.asarray(found.toarray() if self.sparse else found, dtype=np.float64)

    def spread_out(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """Labels of the points, [n], as labels of the rows, [N]; -1 for rows of weight zero."""
        if self.group is None:
            return labels
        return np.where(self.group < 0, np.int32(-1), labels[self.group])


def merged(points: Points, group: NDArray[np.int64], first: NDArray[np.int64]) -> Points:
    """The points with equal ones merged.

    Parameters
    ----------
    group : int64 [n]
        To which of m new points each belongs.
    first : int64 [m]
        A point of each.
    """
    if len(first) == points.count:
        return points
    rows = first if points.rows is None else points.rows[first]
    weights = np.bincount(group, weights=points.weights, minlength=len(first)).astype(np.float64)
    if points.group is None:
        return Points(points.x, rows, weights, group)
    return Points(points.x, rows, weights, np.where(points.group < 0, -1, group[points.group]))
