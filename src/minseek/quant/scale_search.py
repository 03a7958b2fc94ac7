"""Searches for the scale of a group of weights, and for its minimum, that leave the least weighted squared error.

Like llama.cpp's quantizers they try several scales near the one that just covers the group, round to levels with each,
and solve for the best scale (and minimum) of these levels; here for all groups of a chunk at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SINGULAR = 1e-4  # of groups whose weights all round to one level
_NOTHING = 1e-15  # groups of smaller weights are zero, as in llama.cpp


def search_scale(x: Floats, to_levels: Callable[[Floats], Floats], first: float, offsets: Iterable[float]) -> Floats:
    """Scale s [N] of each group in x [N, size] so that s times a level is near each weight.

    Parameters
    ----------
    to_levels : callable
        Nearest levels of weights divided by a scale.
    first : float
        Level of the weight of largest magnitude.
    offsets : iterable of float
        Added to `first` for the scales that are tried.
    """
    largest = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    inverse = np.asarray(1 / np.where(np.abs(largest) < _NOTHING, np.inf, largest), np.float32)
    squares = x * x  # the weights of errors
    cubes = squares * x
    best_scale, best = np.zeros(len(x), np.float32), np.zeros(len(x), np.float32)
    for offset in offsets:
        levels = to_levels(x * ((first + float(offset)) * inverse)[:, None])
        products = _row_dots(cubes, levels)
        norms = _row_dots(squares * levels, levels)
        scale = np.asarray(products / np.where(norms > 0, norms, np.float32(np.inf)), np.float32)
        gain = scale * products
        better = gain > best
        best_scale[better], best[better] = scale[better], gain[better]
    return best_scale


def search_scale_and_minimum(
    x: Floats, weights: Floats, max_level: int, offsets: Iterable[float]
) -> tuple[Floats, Floats]:
    """Scale s and minimum m, [N] each and not negative, so that s times a level minus m is near each weight.

    Parameters
    ----------
    x, weights : array of float32, [N, size]
        Weights of the model, and the weight of each one's error.
    max_level : int
        Levels are 0 to this.
    offsets : iterable of float
        Added to `max_level` for the scales that are tried.
    """
    low, high = np.minimum(x.min(axis=1), 0), x.max(axis=1)
    spread = np.where(high - low > _NOTHING, high - low, np.float32(np.inf))
    wx, shifted = weights * x, x - low[:, None]
    sum_w, sum_x = weights.sum(axis=1).astype(np.float64), wx.sum(axis=1).astype(np.float64)
    best_scale = np.asarray(np.where(np.isfinite(spread), spread, 0) / max_level, np.float32)
    best_low = low.copy()
    levels = np.rint(shifted * (max_level / spread)[:, None])
    best = _row_dots(weights, (best_scale[:, None] * levels - shifted) ** 2)
    for offset in offsets:
        levels = np.rint(shifted * ((max_level + float(offset)) / spread)[:, None])
        np.clip(levels, 0, max_level, out=levels)
        weighted = weights * levels
        sum_l, sum_ll = weighted.sum(axis=1).astype(np.float64), _row_dots(weighted, levels).astype(np.float64)
        sum_xl = _row_dots(wx, levels).astype(np.float64)
        determinant = sum_w * sum_ll - sum_l**2
        solvable = determinant > _SINGULAR * sum_w * sum_ll
        determinant[~solvable] = 1
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        minimum = (sum_ll * sum_x - sum_l * sum_xl) / determinant
        positive = minimum > 0  # which no format can store
        scale = np.where(positive, sum_xl / np.where(sum_ll > 0, sum_ll, 1), scale).astype(np.float32)
        minimum = np.where(positive, 0, minimum).astype(np.float32)
        levels *= scale[:, None]
        levels += minimum[:, None]
        levels -= x
        error = _row_dots(weights * levels, levels)
        better = solvable & (scale > 0) & (error < best)
        best_scale[better], best_low[better], best[better] = scale[better], minimum[better], error[better]
    return best_scale, -best_low


def _row_dots(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("ij,ij->i", a, b))
