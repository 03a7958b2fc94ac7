"""Slow, exact references for LOKMeans."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PHI: dict[str, Callable[[Array], Array]] = {
    "squared_euclidean": lambda x: (x**2).sum(axis=-1),
    "kl": lambda x: np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0).sum(axis=-1),
    "itakura_saito": lambda x: -np.log(x).sum(axis=-1),
}


def loss_of(x: Array, weights: Array, labels: NDArray[np.integer], phi: Callable[[Array], Array]) -> float:
    """The loss by its other definition: weighted phi of the points minus that of the means."""
    total = 0.0
    for label in np.unique(labels):
        members = labels == label
        mean = np.average(x[members], axis=0, weights=weights[members])
        total += (weights[members] * phi(x[members])).sum() - weights[members].sum() * phi(mean)
    return float(total)


def global_optimum(x: Array, weights: Array, clusters: int, phi: Callable[[Array], Array]) -> float:
    """The global optimum over all assignments."""
    return min(
        loss_of(x, weights, np.array(labels), phi) for labels in itertools.product(range(clusters), repeat=len(x))
    )


def single_moves(
    x: Array, weights: Array, labels: NDArray[np.integer], clusters: int, phi: Callable[[Array], Array]
) -> Array:
    """Change of the loss by every single move, [n, k], each computed from two whole losses."""
    before = loss_of(x, weights, labels, phi)
    change = np.zeros((len(x), clusters))
    for i, k in itertools.product(range(len(x)), range(clusters)):
        moved = labels.copy()
        moved[i] = k
        change[i, k] = loss_of(x, weights, moved, phi) - before
    return change


def global_optimum_1d(x: Array, weights: Array, clusters: int) -> float:
    """The global optimum for squared distances in one dimension, by dynamic programming."""
    order = np.argsort(x)
    x, weights = x[order], weights[order]
    n = len(x)
    least = np.full((clusters + 1, n + 1), np.inf)
    least[0, 0] = 0.0
    for k in range(1, clusters + 1):
        for end in range(k, n + 1):
            for start in range(k - 1, end):
                part, w = x[start:end], weights[start:end]
                mean = np.average(part, weights=w)
                cost = (w * (part - mean) ** 2).sum()
                least[k, end] = min(least[k, end], least[k - 1, start] + cost)
    return float(least[clusters, n])
