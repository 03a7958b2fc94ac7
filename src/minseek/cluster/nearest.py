"""Nearest centers of rows that need not be those of the fit; a row's result does not depend on the other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array, Backend, Labels
from minseek.cluster.dispatch import make_backend
from minseek.cluster.points import Points
from minseek.cluster.problem import Problem
from minseek.errors import InputError

Ids = NDArray[np.integer[Any]]
_STEP = 2**21  # numbers in a temporary array


def nearest_centers(problem: Problem, centers: Array, n_threads: int | None = None) -> tuple[Labels, Array]:
    """The nearest of some centers [k, d] for every point, and the divergence to it, [n].

    Raises
    ------
    InputError
        If a change of coordinates overflows.
    """
    backend = _backend_at(problem, centers, n_threads)
    labels, divergence = backend.nearest()
    for ids in _steps(np.flatnonzero(labels < 0), centers.size):
        ranks, squares, exponents = _far_squares(backend.points, ids, problem.to_backend(centers))
        labels[ids] = ranks.argmin(axis=1)
        with np.errstate(over="ignore"):
            divergence[ids] = np.ldexp(squares.min(axis=1), 2 * exponents)
    return labels, divergence


def distances_to_centers(problem: Problem, centers: Array, n_threads: int | None = None) -> Array:
    """Euclidean distances (not squared) of every point to centers [k, d], [n, k]; for squared Euclidean problems.

    Raises
    ------
    InputError
        If a change of coordinates overflows.
    """
    backend = _backend_at(problem, centers, n_threads)
    out = np.empty((backend.points.count, len(centers)))
    step = max(1, _STEP // max(1, centers.size))
    for start in range(0, len(out), step):
        rows = slice(start, min(start + step, len(out)))
        found = backend.pairwise(rows)
        far = np.flatnonzero(found[:, 0] < 0)
        found[far] = 0
        out[rows] = np.sqrt(found)
        if len(far):
            _, squares, exponents = _far_squares(backend.points, start + far, problem.to_backend(centers))
            with np.errstate(over="ignore"):
                out[start + far] = np.ldexp(np.sqrt(squares), exponents[:, None])
    return out


def _backend_at(problem: Problem, centers: Array, n_threads: int | None) -> Backend:
    backend = make_backend(problem.points, problem.divergence, len(centers), n_threads)
    backend.set_centers(problem.to_backend(centers))
    return backend


def _steps(ids: Ids, width: int) -> list[Ids]:
    step = max(1, _STEP // max(1, width))
    return [ids[start : start + step] for start in range(0, len(ids), step)]


def _far_squares(points: Points, ids: Ids, centers: Array) -> tuple[Array, Array, Labels]:
    """Ranks of the centers and squared distances of points far outside, [m, k] and [m, k], and exponents, [m].

    A distance is ``sqrt(square) * 2**exponent``. With u the scaled point and c the center relative to their mean,
    ``|u - c|^2 = |u|^2 + (-2 u.c + |c|^2)``: the second term, the rank, is exact where u is longer than c by so much
    that u - c is u. Sums run along the last axis, in the same order for one row and for many.
    """
    origin = centers.mean(axis=0)
    half = points.take(ids) / 2 - origin / 2
    if not np.isfinite(half).all():
        row = ids[int((~np.isfinite(half)).any(axis=1).argmax())]
        row = row if points.rows is None else points.rows[row]
        raise InputError(f"X has numbers in row {row} that overflow in the divergence's coordinates; scale X down.")
    exponents = np.frexp(np.abs(half).max(axis=1))[1]
    u = np.ldexp(half, -exponents[:, None])
    exponents = exponents + 1
    c = np.ldexp(centers - origin, -exponents[:, None, None])
    ranks = (c * c - 2 * u[:, None] * c).sum(axis=-1)
    squares = np.maximum((u * u).sum(axis=-1)[:, None] + ranks, 0.0)
    return ranks, squares, exponents
