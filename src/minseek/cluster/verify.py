"""Proof or refutation of the local optimality of any clustering."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.utils import check_array

from minseek.cluster.backends import any_engine
from minseek.cluster.certificate import Certificate, certify
from minseek.cluster.checks import check_weights
from minseek.cluster.divergences import Divergence, divergence_of
from minseek.cluster.problem import merge_equal, prepare
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
    """Prove or refute that a clustering, whoever made it, is locally optimal.

    Rows that are equal and have equal labels move together: what a cluster loses by giving away a share of a point
    is concave in that share, so no single one of them can gain when all of them together don't. Centres are the
    clusters' means.

    Parameters
    ----------
    X : array or CSR matrix [n, d]
    labels : int array [n]
        Each row's cluster, 0, 1, …; rows of weight zero don't count.
    sample_weight : array [n], optional
    divergence : str or Divergence
    tol : float
        A change counts from this share of a point's mean loss on.
    n_clusters : int, optional
        How many clusters there are, when some at the end may be empty. An empty one that could take a point is a
        move that gains.

    Returns
    -------
    Certificate
        With all gaining moves.

    Raises
    ------
    InputError
        Data, labels or weights are not what they must be, or `tol` is negative.
    TypeError
        `tol` is no number, or `n_clusters` no integer.
    """
    check_type("tol must be a number", tol, Real)
    if not tol >= 0:
        raise InputError(f"tol must be 0 or more, not {tol}; it is a share of a point's mean loss.")
    if n_clusters is not None:
        check_type("n_clusters must be an integer", n_clusters, Integral)
    asked = divergence_of(divergence)
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
    problem = prepare(x, asked, weights)
    held = given if problem.points.rows is None else given[problem.points.rows]
    count = int(held.max()) + 1 if n_clusters is None else n_clusters
    if held.min() < 0 or held.max() >= count:
        wrong = held.min() if held.min() < 0 else held.max()
        raise InputError(f"labels contain {wrong}, but there are {count} clusters; labels are 0 … {count - 1}.")
    held = held.astype(np.int32)
    before = problem.points
    problem = merge_equal(problem, held)
    if problem.points is not before:
        rows = problem.points.rows
        assert rows is not None
        held = given[rows].astype(np.int32)
    engine = any_engine(problem.points, problem.divergence, count)
    engine.begin(held)
    return certify(engine, tol)
