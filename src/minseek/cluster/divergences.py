"""Bregman divergences: dissimilarities for which the best center of any cluster is its mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError, check_type

Array = NDArray[np.float64]
_TEMPORARY_SIZE = 2**22  # numbers in a temporary array of differences


class Divergence:
    """A Bregman divergence D(x, c) = phi(x) - phi(c) - <x - c, grad phi(c)>, phi strictly convex.

    A subclass overrides `phi` and `gradient`, or better `between`, which must stay accurate when x is close to c, and
    `invalid_mask` if its domain is not all of R^d. `register` gives it a name.

    Source: Banerjee, Merugu, Dhillon, Ghosh, *Clustering with Bregman Divergences*, JMLR 6 (2005): the mean is the
    best center for every Bregman divergence.
    """

    name: ClassVar[str]
    domain: ClassVar[str] = "every finite number"  # in words, for messages

    def phi(self, x: Array) -> Array:
        """The convex function phi, summed over the last axis: [..., d] -> [...]."""
        raise NotImplementedError(f"the divergence {self.name!r} has neither phi nor between")

    def gradient(self, x: Array) -> Array:
        """Gradient of phi, [..., d] -> [..., d]."""
        raise NotImplementedError(f"the divergence {self.name!r} has neither gradient nor between")

    def between(self, x: Array, c: Array) -> Array:
        """D(x, c) over the last axis, the others broadcast: [..., d], [..., d] -> [...]; never negative."""
        divergence = self.phi(x) - self.phi(c) - ((x - c) * self.gradient(c)).sum(axis=-1)
        return np.asarray(np.maximum(divergence, 0.0))

    def invalid_mask(self, x: Array) -> NDArray[np.bool_] | None:
        """Mark the entries of x, [n, d], outside the domain; None if every finite number is inside."""
        return None

    def clip_to_domain(self, c: Array) -> Array:
        """Move computed centers back into the closed domain, which only rounding can have taken them out of."""
        return c

    def to_euclidean(self, x: Array) -> Array | None:
        """Map x, [n, d], to coordinates in which this is the squared Euclidean divergence; None if there are none."""
        return None

    def pairwise(self, x: Array, centers: Array) -> Array:
        """D of every point to every center, [n, d], [k, d] -> [n, k]."""
        out = np.empty((len(x), len(centers)))
        step = max(1, _TEMPORARY_SIZE // max(1, centers.size))
        for start in range(0, len(x), step):
            out[start : start + step] = self.between(x[start : start + step, None], centers)
        return out

    def ranking(self, x: Array, centers: Array) -> Array:
        """Numbers that order the centers of each point as D does, up to rounding, [n, k]; cheaper than D itself."""
        return self.pairwise(x, centers)

    def insertion_cost(self, x: Array, weights: Array, centers: Array, sizes: Array) -> Array:
        """Increase of the loss of each cluster if a point joined it, [n, k].

        ``s D(c, c') + w D(x, c')`` with c' the new center: both terms are positive, so that nothing cancels.
        """
        out = np.empty((len(x), len(centers)))
        step = max(1, _TEMPORARY_SIZE // max(1, centers.size))
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            out[rows] = self.insertion_cost_of(x[rows], weights[rows], centers, sizes)
        return out

    def insertion_cost_of(self, x: Array, weights: Array, centers: Array, sizes: Array) -> Array:
        """Insertion costs of m clusters per point: centers [n, m, d], sizes [n, m]; or common ones: [m, d], [m]."""
        rows, w = x[:, None], weights[:, None]
        after = self.clip_to_domain(centers + (rows - centers) * (w / (sizes + w))[..., None])
        cost = sizes * self.between(centers, after) + w * self.between(rows, after)
        return np.asarray(np.where(sizes == 0, 0.0, cost))

    def removal_gain(self, x: Array, weights: Array, centers: Array, sizes: Array) -> Array:
        """Decrease of the loss of a point's own cluster if it left, [n]; centers [n, d] and sizes [n] are its own."""
        rest = sizes - weights
        singleton = rest <= 1e-13 * sizes
        divisor = np.where(singleton, 1.0, rest)
        after = self.clip_to_domain(centers + (centers - x) * (weights / divisor)[:, None])
        gain = rest * self.between(after, centers) + weights * self.between(x, centers)
        return np.where(singleton, 0.0, gain)


_REGISTERED: dict[str, Callable[[], Divergence]] = {}
_Kind = TypeVar("_Kind", bound=type[Divergence])


def register(kind: _Kind) -> _Kind:
    """Register a divergence class by its name; usable as a decorator.

    Raises
    ------
    InputError
        If it has no name, or the name is taken.
    TypeError
        If it is not a class, but an instance of one.
    """
    check_type("a registered divergence must be a class", kind, type, "; register the class of this object.")
    if not getattr(kind, "name", ""):
        raise InputError(f"the divergence {kind.__name__} has no name; give it a class attribute 'name'.")
    if kind.name in _REGISTERED:
        raise InputError(f"a divergence named {kind.name!r} is already registered; choose another name.")
    _REGISTERED[kind.name] = kind
    return kind


def divergence_of(divergence: str | Divergence) -> Divergence:
    """Return the divergence itself, or an instance of the class of that name.

    Raises
    ------
    InputError
        If no divergence has that name, or it needs parameters.
    """
    if isinstance(divergence, Divergence):
        return divergence
    if not isinstance(divergence, str) or divergence not in _REGISTERED:
        known = ", ".join(sorted(_REGISTERED))
        raise InputError(f"divergence={divergence!r} is not known; choose one of {known}, or pass a Divergence.")
    try:
        return _REGISTERED[divergence]()
    except TypeError:
        raise InputError(
            f"divergence={divergence!r} has parameters; pass an object, e.g. Mahalanobis(matrix)."
        ) from None


@register
class SquaredEuclidean(Divergence):
    """``|x - c|^2``; phi = |x|^2."""

    name = "squared_euclidean"

    def between(self, x: Array, c: Array) -> Array:
        gap = x - c
        return np.asarray(np.einsum("...i,...i->...", gap, gap))

    def to_euclidean(self, x: Array) -> Array:
        return x

    def ranking(self, x: Array, centers: Array) -> Array:
        return np.asarray((centers**2).sum(axis=1) - 2 * (x @ centers.T))

    def insertion_cost(self, x: Array, weights: Array, centers: Array, sizes: Array) -> Array:
        w = weights[:, None]
        return w * (sizes / (sizes + w)) * self.pairwise(x, centers)

    def removal_gain(self, x: Array, weights: Array, centers: Array, sizes: Array) -> Array:
        rest = sizes - weights
        singleton = rest <= 1e-13 * sizes
        factor = sizes / np.where(singleton, 1.0, rest)
        return np.where(singleton, 0.0, weights * factor * self.between(x, centers))


@register
class Mahalanobis(Divergence):
    """``(x - c)' A (x - c)``; phi = x' A x, A symmetric and positive definite.

    Parameters
    ----------
    matrix : array [d, d]
        A; e.g. the inverse of a covariance matrix.

    Raises
    ------
    InputError
        If A is not square, not symmetric or not positive definite.
    """

    name = "mahalanobis"

    def __init__(self, matrix: Array) -> None:
        self.matrix = np.array(matrix, dtype=np.float64)
        if self.matrix.ndim != 2 or self.matrix.shape[0] != self.matrix.shape[1]:
            raise InputError(f"the matrix of Mahalanobis has shape {self.matrix.shape}; give a square one, [d, d].")
        if not np.allclose(self.matrix, self.matrix.T, rtol=1e-10, atol=0):
            raise InputError("the matrix of Mahalanobis is not symmetric; give (A + A') / 2.")
        try:
            self.root = np.linalg.cholesky(self.matrix)
        except np.linalg.LinAlgError:
            least = np.linalg.eigvalsh(self.matrix)[0]
            raise InputError(
                f"the matrix of Mahalanobis is not positive definite: its smallest eigenvalue is {least:.3g}."
            ) from None

    def __repr__(self) -> str:
        return f"Mahalanobis(matrix=[{len(self.matrix)}, {len(self.matrix)}])"

    def between(self, x: Array, c: Array) -> Array:
        gap = (x - c) @ self.root
        return np.asarray(np.einsum("...i,...i->...", gap, gap))

    def to_euclidean(self, x: Array) -> Array:
        if x.shape[1] != len(self.matrix):
            raise InputError(f"X has {x.shape[1]} columns but the matrix of Mahalanobis is {self.matrix.shape}.")
        return np.ascontiguousarray(x @ self.root)


def _log_ratio(x: Array, c: Array) -> Array:
    """log(x / c), accurate also if x is close to c."""
    ratio = (x - c) / c
    close = np.abs(ratio) < 0.5
    return np.where(close, np.log1p(np.where(close, ratio, 0.0)), np.log(x / c))


@register
class KL(Divergence):
    """Generalized Kullback-Leibler (I-) divergence ``sum x log(x / c) - x + c``; phi = sum x log x, x >= 0.

    ``0 log 0 = 0``; a center is infinitely far if it is zero in a coordinate in which the point is not.
    """

    name = "kl"
    domain = "numbers >= 0"

    def invalid_mask(self, x: Array) -> NDArray[np.bool_]:
        return x < 0

    def clip_to_domain(self, c: Array) -> Array:
        return np.maximum(c, 0.0)

    def ranking(self, x: Array, centers: Array) -> Array:
        zero = centers == 0
        rank = centers.sum(axis=1) - x @ np.log(np.where(zero, 1.0, centers)).T
        if zero.any():
            rank = np.where((x > 0).astype(np.float64) @ zero.T > 0, np.inf, rank)
        return np.asarray(rank)

    def between(self, x: Array, c: Array) -> Array:
        x, c = np.broadcast_arrays(x, c)
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = x * _log_ratio(x, c) - (x - c)
        terms = np.where(x > 0, np.where(c > 0, terms, np.inf), c)
        return np.asarray(np.maximum(terms, 0.0).sum(axis=-1))


@register
class ItakuraSaito(Divergence):
    """``sum x / c - log(x / c) - 1``; phi = -sum log x, x > 0."""

    name = "itakura_saito"
    domain = "numbers > 0"

    def invalid_mask(self, x: Array) -> NDArray[np.bool_]:
        return x <= 0

    def clip_to_domain(self, c: Array) -> Array:
        return np.maximum(c, np.finfo(np.float64).tiny)

    def ranking(self, x: Array, centers: Array) -> Array:
        return np.asarray(np.log(centers).sum(axis=1) + x @ (1 / centers).T)

    def between(self, x: Array, c: Array) -> Array:
        return np.asarray(np.maximum((x - c) / c - _log_ratio(x, c), 0.0).sum(axis=-1))
