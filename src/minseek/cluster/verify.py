"""Proof or refutation of the local optimality of any clustering."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.utils import check_array

from minseek.cluster.certificate import Certificate, certify
from minseek.cluster.checks import check_weights
from minseek.cluster.dispatch import make_backend
from minseek.cluster.divergences import Divergence, divergence_of
from minseek.cluster.problem import Problem, merge_equal_rows, prepare
from minseek.errors import InputError, check_type


def verify(
    X: ArrayLike | sparse.csr_matrix,
    labels: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    divergence: str | Divergence = "squared_euclidean",
    tol: float = 1e-9,
    n_clusters: int | None = None,
) -> Certificate:
    """Prove or refute that a clustering from any source is locally optimal.

    Rows that are equal and have equal labels move together: the loss change of moving a share of a point is concave
    in that share, so no single one of them can gain if all of them together do not. Centers are the clusters' means.

    Parameters
    ----------
    X : array or CSR matrix [n, d]
    labels : int array [n]
        Each row's cluster, 0, 1, …; rows of weight zero do not count.
    sample_weight : array [n], optional
    divergence : str or Divergence
    tol : float
        A change counts if it exceeds this share of a point's mean loss.
    n_clusters : int, optional
        Number of clusters, if the last ones may be empty. Moving a point into an empty cluster gains.

    Returns
    -------
    Certificate
        Lists all gaining moves.

    Raises
    ------
    InputError
        If data, labels or weights are invalid, or `tol` is negative.
    TypeError
        If `tol` is not a number, or `n_clusters` not an integer.
    """
    check_type("tol must be a number", tol, Real)
    if not tol >= 0:
        raise InputError(f"tol must be 0 or more, not {tol}; it is a share of a point's mean loss.")
    if n_clusters is not None:
        check_type("n_clusters must be an integer", n_clusters, Integral)
    x: Any = check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32], order="C", ensure_all_finite=False)
    given = np.asarray(labels)
    if given.shape != (x.shape[0],) or given.dtype.kind not in "iu":
        raise InputError(
            f"labels are {given.dtype} {list(given.shape)}; give one integer for each of the {x.shape[0]} rows."
        )
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights is not None:
        if weights.shape != given.shape:
            raise InputError(f"sample_weight has shape {list(weights.shape)} but there are {len(given)} rows.")
        check_weights(weights)
    problem = prepare(x, divergence_of(divergence), weights)
    point_labels = _labels_of_points(given, problem)
    count = int(point_labels.max()) + 1 if n_clusters is None else n_clusters
    if point_labels.min() < 0 or point_labels.max() >= count:
        wrong = point_labels.min() if point_labels.min() < 0 else point_labels.max()
        raise InputError(f"labels contain {wrong}, but there are {count} clusters; labels are 0 … {count - 1}.")
    problem = merge_equal_rows(problem, point_labels.astype(np.int32))
    backend = make_backend(problem.points, problem.divergence, count)
    backend.set_labels(_labels_of_points(given, problem).astype(np.int32))
    return certify(backend, tol)


def _labels_of_points(labels: Any, problem: Problem) -> Any:
    rows = problem.points.rows
    return labels if rows is None else labels[rows]
