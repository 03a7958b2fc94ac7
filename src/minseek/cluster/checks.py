"""Checks of data and weights; messages name the first bad entry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import check_array

from minseek.cluster.divergences import Divergence
from minseek.errors import InputError

_WEIGHT_LIMIT = 2.0**100
_CENTER_REACH = 2.0**50  # times the reach of the data: farther centers are equally far from all rows, but for rounding
_STEP = 2**22  # numbers checked at a time


def check_finite(x: Any, name: str = "X") -> None:
    """Check an array [n, d] or a CSR matrix for NaN and infinity.

    Raises
    ------
    InputError
        If there is one; names row, column and value of the first.
    """
    if sparse.issparse(x):
        entries = np.flatnonzero(~np.isfinite(x.data))
        if len(entries):
            row = int(np.searchsorted(x.indptr, entries[0], side="right")) - 1
            _raise_not_finite(name, row, int(x.indices[entries[0]]), x.data[entries[0]])
        return
    step = max(1, _STEP // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        block = x[start : start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            total = block.sum(dtype=np.float64)
        if np.isfinite(total):
            continue
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            row, column = bad[0]
            _raise_not_finite(name, start + int(row), int(column), block[row, column])


def _raise_not_finite(name: str, row: int, column: int, value: Any) -> None:
    kind = "NaN" if np.isnan(value) else "infinity"
    raise InputError(f"{name} contains {kind} in row {row}, column {column}; remove or replace such rows.")


def check_domain(divergence: Divergence, x: NDArray[Any]) -> None:
    """Check that all data are in the divergence's domain.

    Raises
    ------
    InputError
        If some are not; names row, column and value of the first.
    """
    step = max(1, _STEP // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        outside = divergence.invalid_mask(x[start : start + step])
        if outside is not None and outside.any():
            row, column = np.argwhere(outside)[0]
            raise InputError(
                f"X has {x[start + row, column]:.6g} in row {start + row}, column {column}, but the divergence "
                f"{divergence.name!r} is defined for {divergence.domain} only."
            )


def check_weights(weights: NDArray[np.float64], limit: float = _WEIGHT_LIMIT) -> None:
    """Check that weights are finite, not negative and not all zero, and that their sum and the largest fit.

    Raises
    ------
    InputError
        If they are not; names the first bad one and its row.
    """
    bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(bad):
        raise InputError(f"sample_weight is {weights[bad[0]]} in row {bad[0]}; weights are finite numbers >= 0.")
    if not weights.any():
        raise InputError(f"all {len(weights)} sample weights are zero; at least one must be positive.")
    row = int(weights.argmax())
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not 1 / limit <= weights[row] or not total <= limit:
        fault = "too large for sums" if total > limit else "the largest, but too small for products"
        raise InputError(
            f"sample_weight is {weights[row]:.6g} in row {row}, which is {fault}; only ratios of weights count, so "
            "divide all by the largest."
        )


def check_centers(centers: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Convert initial centers to float64 and check them; `shape` is (clusters, columns).

    Raises
    ------
    InputError
        If they have another shape or are not finite.
    """
    converted: NDArray[np.float64] = check_array(centers, dtype=np.float64, ensure_all_finite=False)
    check_finite(converted, "init")
    if converted.shape != shape:
        wrong = "clusters" if len(converted) != shape[0] else "features of the data"
        raise InputError(
            f"The shape of the initial centers {converted.shape} does not match the number of {wrong}; "
            f"{shape[0]} centers of {shape[1]} columns are needed."
        )
    return converted


def check_reach(internal: NDArray[np.float64], centers: Any, max_norm: float) -> None:
    """Check that centers, relative to the origin, are not so far from the data that distances to them say nothing.

    Raises
    ------
    InputError
        If one is; names row, column and value of `centers`.
    """
    far = np.argwhere(~(np.abs(internal) <= _CENTER_REACH * (max_norm or 1.0)))
    if len(far):
        row, column = far[0]
        raise InputError(
            f"center {row} has {centers[row][column]:.6g} in column {column}, more than 2**50 times as far as any row "
            "from the mean of X; choose centers nearer to the data."
        )
