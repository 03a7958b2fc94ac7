"""Proof or refutation of the local optimality of any clustering."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.utils import check_array

from minseek.cluster.certificate import Certificate, certify
from minseek.cluster.checks import check_weights
from minseek.cluster.dispatch import make_backend
from minseek.cluster.divergences import Divergence, divergence_of
from minseek.cluster.problem import Problem, find_frame, merge_equal_rows, prepare
from minseek.errors import InputError, check_type, is_instance


def verify(
    X: ArrayLike | sparse.csr_matrix,
    labels: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    divergence: str | Divergence = "squared_euclidean",
    tol: float = 1e-9,
    n_clusters: int | None = None,
    noise_label: int | str | None = None,
) -> Certificate:
    """Prove or refute that a clustering from any source is locally optimal.

    Rows that are equal and have equal labels move together: the loss change of moving a share of a point is concave
    in that share, so no single one of them can gain if all of them together do not. Centers are the clusters' means.

    Parameters
    ----------
    X : array or CSR matrix [n, d]
    labels : int or str array [n]
        Each row's cluster. Without `n_clusters` they are names: integers from 0 with gaps, or text, and only the
        clusters that occur count. Rows of weight zero do not count.
    sample_weight : array [n], optional
    divergence : str or Divergence
    tol : float
        A change counts if it exceeds this share of a point's mean loss.
    n_clusters : int, optional
        Number of clusters, if some may be empty; labels are 0, 1, … then. Moving a point into an empty cluster gains.
    noise_label : int or str, optional
        Rows with this label belong to no cluster and are left out, such as -1 of HDBSCAN.

    Returns
    -------
    Certificate
        Lists all gaining moves, by the given labels, and the empty clusters.

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
    if given.shape != (x.shape[0],) or given.dtype.kind not in "iuUSO":
        raise InputError(
            f"labels are {given.dtype} {list(given.shape)}; give one integer or text for each of the {x.shape[0]} rows."
        )
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights is not None:
        if weights.shape != given.shape:
            raise InputError(f"sample_weight has shape {list(weights.shape)} but there are {len(given)} rows.")
        check_weights(weights)
    if noise_label is not None:
        kept = given != noise_label
        if not kept.any():
            raise InputError(f"every label is noise_label={noise_label!r}; at least one row must have another.")
        weights = np.where(kept, 1.0 if weights is None else weights, 0.0)
        check_weights(weights)
    problem = prepare(x, divergence_of(divergence), weights)
    names, empty, number = _clusters(_of_points(given, problem), n_clusters)
    of_rows = np.zeros(len(given), dtype=np.int32)
    of_rows[slice(None) if problem.points.rows is None else problem.points.rows] = number
    problem = find_frame(merge_equal_rows(problem, number), x)
    backend = make_backend(problem.points, problem.divergence, len(names))
    backend.set_labels(_of_points(of_rows, problem))
    proof = certify(backend, tol)
    moves = tuple(m._replace(source=names[m.source], target=names[m.target]) for m in proof.moves)
    return replace(proof, moves=moves, empty_clusters=empty)


def _of_points(labels: NDArray[Any], problem: Problem) -> NDArray[Any]:
    rows = problem.points.rows
    return labels if rows is None else labels[rows]


def _clusters(labels: NDArray[Any], n_clusters: int | None) -> tuple[list[Any], tuple[range, ...], NDArray[np.int32]]:
    """Number the clusters that occur: their labels, the labels that do not occur, and each point's number, [n].

    If some do not occur, one of them, the first, is numbered too: moving into any of them gains the same.
    """
    try:
        occurring, number = np.unique(labels, return_inverse=True)
    except TypeError:
        raise InputError("labels mix text and numbers; give labels of one kind.") from None
    names: list[Any] = occurring.tolist()
    text = not all(is_instance(name, int) for name in names)
    if text and (n_clusters is not None or not all(isinstance(name, str | bytes) for name in names)):
        wrong = next(name for name in names if not is_instance(name, int))
        rule = "labels must be integers where n_clusters is given" if n_clusters else "labels must be integers or text"
        raise InputError(f"{rule}, not {wrong!r}.")
    numbers: NDArray[np.int32] = number.reshape(-1).astype(np.int32)
    if text:
        return names, (), numbers
    count = sum(name >= 0 for name in names) if n_clusters is None else n_clusters
    if names[0] < 0 or (n_clusters is not None and names[-1] >= count):
        wrong = names[0] if names[0] < 0 else names[-1]
        noise = "; noise_label=-1 leaves such rows out" if wrong == -1 else ""
        raise InputError(
            f"labels contain {wrong}, but there are {count} clusters; labels are 0 … {count - 1} or names{noise}."
        )
    if n_clusters is None or len(names) == n_clusters:
        return names, (), numbers
    edges = [-1, *names, n_clusters]
    empty = tuple(range(a + 1, b) for a, b in pairwise(edges) if b - a > 1)
    place = empty[0].start  # labels below occur, so that this is its number, too
    return (
        [*names[:place], place, *names[place:]],
        empty,
        np.where(number >= place, number + 1, number).astype(np.int32),
    )
