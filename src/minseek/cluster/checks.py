"""Whether the data can be clustered; if not, which entry is in the way."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from minseek.cluster.divergences import Divergence
from minseek.errors import InputError

_STEP = 2**22  # numbers looked at in one go


def check_finite(x: Any, what: str = "X") -> None:
    """No NaN and no infinity in an array [n, d] or a CSR matrix.

    Raises
    ------
    InputError
        With row, column and value of the first.
    """
    if sparse.issparse(x):
        entries = np.flatnonzero(~np.isfinite(x.data))
        if len(entries):
            row = int(np.searchsorted(x.indptr, entries[0], side="right")) - 1
            _refuse(what, row, int(x.indices[entries[0]]), x.data[entries[0]])
        return
    step = max(1, _STEP // max(1, x.shape[1]))
    for at in range(0, len(x), step):
        block = x[at : at + step]
        if np.isfinite(block.sum(dtype=np.float64)):
            continue
        bad = np.argwhere(~np.isfinite(block))
        if len(bad):
            row, column = bad[0]
            _refuse(what, at + int(row), int(column), block[row, column])


def _refuse(what: str, row: int, column: int, value: Any) -> None:
    kind = "NaN" if np.isnan(value) else "infinity"
    raise InputError(f"{what} contains {kind} in row {row}, column {column}; remove or replace such rows.")


def check_domain(divergence: Divergence, x: NDArray[Any]) -> None:
    """Everything lies in the divergence's domain.

    Raises
    ------
    InputError
        With row, column and value of the first that does not.
    """
    step = max(1, _STEP // max(1, x.shape[1]))
    for at in range(0, len(x), step):
        outside = divergence.refuse(x[at : at + step])
        if outside is not None and outside.any():
            row, column = np.argwhere(outside)[0]
            raise InputError(
                f"X has {x[at + row, column]:.6g} in row {at + row}, column {column}, but the divergence "
                f"{divergence.name!r} is defined for {divergence.domain} only."
            )


def check_weights(weights: NDArray[np.float64]) -> None:
    """Weights are finite, not negative and not all zero.

    Raises
    ------
    InputError
        With the first that is not, and where.
    """
    bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(bad):
        raise InputError(f"sample_weight is {weights[bad[0]]} in row {bad[0]}; weights are finite numbers >= 0.")
    if not weights.any():
        raise InputError(f"all {len(weights)} sample weights are zero; at least one must be positive.")
