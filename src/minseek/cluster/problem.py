"""From what a user gives to points an engine can work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backends import Array, Labels, any_engine
from minseek.cluster.checks import check_domain, check_finite
from minseek.cluster.divergences import Divergence, SquaredEuclidean
from minseek.cluster.points import Points, merged
from minseek.cluster.work import distinct, kernels_for
from minseek.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Points to be clustered under a divergence, both in the coordinates in which they are computed with.

    Attributes
    ----------
    points : Points
    divergence : Divergence
        Squared Euclidean where the user's divergence is that of other coordinates.
    asked : Divergence
        The user's.
    origin : float64 [d] or None
        What was subtracted before the coordinates changed; None where they did not.
    """

    points: Points
    divergence: Divergence
    asked: Divergence
    origin: Array | None

    def inward(self, centres: Array) -> Array:
        """Centres in the user's coordinates, as the engine has them."""
        return centres if self.origin is None else _embedded(self.asked, centres, self.origin)


def _embedded(divergence: Divergence, x: Array, origin: Array) -> Array:
    found = divergence.embed(x - origin)
    assert found is not None
    return found


def prepare(
    x: Any, divergence: Divergence, weights: NDArray[np.float64] | None, *, origin: Array | None = None
) -> Problem:
    """Check the data and leave out rows of weight zero.

    Parameters
    ----------
    x : array [N, d], C-contiguous, float32 or float64; or CSR
    origin : float64 [d], optional
        Of an earlier problem that this one must share its coordinates with.

    Raises
    ------
    InputError
        Something is not finite, or outside the divergence's domain, or sparse where that cannot be.
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
    used = divergence
    if divergence.name != "squared_euclidean" and divergence.embed(np.zeros((1, x.shape[1]))) is not None:
        origin = x.mean(axis=0, dtype=np.float64) if origin is None else origin
        points, used = Points(_embedded(divergence, x, origin)), SquaredEuclidean()
    else:
        origin = None
    if weights is not None:
        heavy = np.flatnonzero(weights > 0)
        if len(heavy) < len(weights):
            group = np.full(len(weights), -1, dtype=np.int64)
            group[heavy] = np.arange(len(heavy))
            points = Points(points.x, heavy, weights[heavy], group)
        elif (weights != 1).any():
            points = Points(points.x, weights=weights)
    return Problem(points, used, divergence, origin)


def merge_equal(problem: Problem, labels: Labels | None = None) -> Problem:
    """Equal rows become one point; with labels of the points, [n], only where those are equal too."""
    points = problem.points
    group, first = _groups(points)
    if labels is not None:
        both = group * (int(labels.max(initial=0)) + 1) + labels
        _, first, group = np.unique(both, return_index=True, return_inverse=True)
        group = group.reshape(-1)
    return Problem(merged(points, group, first), problem.divergence, problem.asked, problem.origin)


def _groups(points: Points) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    library = kernels_for(points)
    if library is not None:
        return distinct(points, library)
    if points.sparse:
        seen: dict[bytes, int] = {}
        x, at = points.x, np.arange(points.count) if points.rows is None else points.rows
        group = np.empty(points.count, dtype=np.int64)
        for i, row in enumerate(at):
            entries = slice(x.indptr[row], x.indptr[row + 1])
            held = x.data[entries] != 0
            key = x.indices[entries][held].tobytes() + x.data[entries][held].tobytes()
            group[i] = seen.setdefault(key, len(seen))
        first = np.unique(group, return_index=True)[1]
        return group, first
    rows = points.x if points.rows is None else points.x[points.rows]
    _, first, group = np.unique(rows + 0.0, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in order of their first point
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[group.reshape(-1)], first[order]


def nearest_centres(problem: Problem, centres: Array, threads: int | None = None) -> tuple[Labels, float]:
    """The nearest centre of every point, and the loss that gives."""
    engine = any_engine(problem.points, problem.divergence, len(centres), threads)
    engine.start(problem.inward(centres))
    engine.assign()
    engine.label()
    return engine.labels.copy(), engine.loss()
