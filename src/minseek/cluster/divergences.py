"""Bregman divergences: how far a point is from a centre, when the best centre of any cluster is its mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError, check_type

Array = NDArray[np.float64]
_ROOM = 2**22  # numbers in a temporary array of differences


class Divergence:
    """A Bregman divergence D(x, c) = phi(x) - phi(c) - <x - c, grad phi(c)>, phi strictly convex.

    One of your own overrides `phi` and `gradient`, or better `between`, which must stay accurate when x is close to
    c; `refuse` where its domain is not all of R^d. `register` gives it a name.

    Source: Banerjee, Merugu, Dhillon, Ghosh, *Clustering with Bregman Divergences*, JMLR 6 (2005): the mean is the
    best centre for every one of them.
    """

    name: ClassVar[str]
    domain: ClassVar[str] = "every finite number"  # in words, for messages

    def phi(self, x: Array) -> Array:
        """The convex function, summed over the last axis: [..., d] -> [...]."""
        raise NotImplementedError(f"the divergence {self.name!r} has neither phi nor between")

    def gradient(self, x: Array) -> Array:
        """Its gradient, [..., d] -> [..., d]."""
        raise NotImplementedError(f"the divergence {self.name!r} has neither gradient nor between")

    def between(self, x: Array, c: Array) -> Array:
        """D(x, c) over the last axis, the others broadcast: [..., d], [..., d] -> [...]; never negative."""
        bend = self.phi(x) - self.phi(c) - ((x - c) * self.gradient(c)).sum(axis=-1)
        return np.asarray(np.maximum(bend, 0.0))

    def refuse(self, x: Array) -> NDArray[np.bool_] | None:
        """Which entries of x, [n, d], lie outside the domain; None where everything finite is inside."""
        return None

    def inside(self, c: Array) -> Array:
        """Computed centres pulled back to the closed domain, from which only rounding can have taken them."""
        return c

    def embed(self, x: Array) -> Array | None:
        """Where this divergence is the squared Euclidean one of other coordinates: x in those, [n, d]."""
        return None

    def pairwise(self, x: Array, centres: Array) -> Array:
        """D of every point to every centre, [n, d], [k, d] -> [n, k]."""
        out = np.empty((len(x), len(centres)))
        step = max(1, _ROOM // max(1, centres.size))
        for at in range(0, len(x), step):
            out[at : at + step] = self.between(x[at : at + step, None], centres)
        return out

    def ranked(self, x: Array, centres: Array) -> Array:
        """Numbers that order the centres for each point as D does, up to rounding, [n, k]."""
        return self.pairwise(x, centres)

    def joining(self, x: Array, weights: Array, centres: Array, sizes: Array) -> Array:
        """By how much the loss of each cluster grows when a point joins it, [n, k].

        ``s D(c, c') + w D(x, c')`` with c' the new centre: both terms are positive, so that nothing cancels.
        """
        out = np.empty((len(x), len(centres)))
        step = max(1, _ROOM // max(1, centres.size))
        for at in range(0, len(x), step):
            out[at : at + step] = self.joining_some(x[at : at + step], weights[at : at + step], centres, sizes)
        return out

    def joining_some(self, x: Array, weights: Array, centres: Array, sizes: Array) -> Array:
        """The same of some clusters for each point: centres [n, m, d], sizes [n, m]; or of all: [m, d], [m]."""
        rows, w = x[:, None], weights[:, None]
        after = self.inside(centres + (rows - centres) * (w / (sizes + w))[..., None])
        cost = sizes * self.between(centres, after) + w * self.between(rows, after)
        return np.asarray(np.where(sizes == 0, 0.0, cost))

    def leaving(self, x: Array, weights: Array, centres: Array, sizes: Array) -> Array:
        """By how much the loss of a cluster falls when a point leaves it, [n]; centres [n, d] and sizes [n] are of
        its own cluster."""
        rest = sizes - weights
        alone = rest <= 1e-13 * sizes
        left = np.where(alone, 1.0, rest)
        after = self.inside(centres + (centres - x) * (weights / left)[:, None])
        saved = rest * self.between(after, centres) + weights * self.between(x, centres)
        return np.where(alone, 0.0, saved)


_NAMED: dict[str, Callable[[], Divergence]] = {}
_Kind = TypeVar("_Kind", bound=type[Divergence])


def register(kind: _Kind) -> _Kind:
    """Make a divergence known by its name; for use as a decorator.

    Raises
    ------
    InputError
        It has no name, or the name is taken.
    TypeError
        It is no class, such as an object of one.
    """
    check_type("what is registered must be a class", kind, type, "; register the class of this object.")
    if not getattr(kind, "name", ""):
        raise InputError(f"the divergence {kind.__name__} has no name; give it a class attribute 'name'.")
    if kind.name in _NAMED:
        raise InputError(f"a divergence named {kind.name!r} is already registered; choose another name.")
    _NAMED[kind.name] = kind
    return kind


def divergence_of(asked: str | Divergence) -> Divergence:
    """The divergence itself, or the one of that name.

    Raises
    ------
    InputError
        There is none of that name, or it needs parameters.
    """
    if isinstance(asked, Divergence):
        return asked
    if not isinstance(asked, str) or asked not in _NAMED:
        raise InputError(
            f"divergence={asked!r} is not known; choose one of {', '.join(sorted(_NAMED))}, or pass a Divergence."
        )
    try:
        return _NAMED[asked]()
    except TypeError:
        raise InputError(f"divergence={asked!r} has parameters; pass an object, e.g. Mahalanobis(matrix).") from None


@register
class SquaredEuclidean(Divergence):
    """``|x - c|^2``; phi = |x|^2."""

    name = "squared_euclidean"

    def between(self, x: Array, c: Array) -> Array:
        gap = x - c
        return np.asarray(np.einsum("...i,...i->...", gap, gap))

    def embed(self, x: Array) -> Array:
        return x

    def ranked(self, x: Array, centres: Array) -> Array:
        return np.asarray((centres**2).sum(axis=1) - 2 * (x @ centres.T))

    def joining(self, x: Array, weights: Array, centres: Array, sizes: Array) -> Array:
        w = weights[:, None]
        return w * (sizes / (sizes + w)) * self.pairwise(x, centres)

    def leaving(self, x: Array, weights: Array, centres: Array, sizes: Array) -> Array:
        rest = sizes - weights
        alone = rest <= 1e-13 * sizes
        return np.where(alone, 0.0, weights * (sizes / np.where(alone, 1.0, rest)) * self.between(x, centres))


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
        A is not square, not symmetric or not positive definite.
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

    def embed(self, x: Array) -> Array:
        if x.shape[1] != len(self.matrix):
            raise InputError(f"X has {x.shape[1]} columns but the matrix of Mahalanobis is {self.matrix.shape}.")
        return np.ascontiguousarray(x @ self.root)


def _log_ratio(x: Array, c: Array) -> Array:
    """log(x / c), accurate also where x is close to c."""
    ratio = (x - c) / c
    close = np.abs(ratio) < 0.5
    return np.where(close, np.log1p(np.where(close, ratio, 0.0)), np.log(x / c))


@register
class KL(Divergence):
    """Generalised Kullback-Leibler (I-) divergence ``sum x log(x / c) - x + c``; phi = sum x log x, x >= 0.

    ``0 log 0 = 0``; a centre that is zero where the point is not is infinitely far.
    """

    name = "kl"
    domain = "numbers >= 0"

    def refuse(self, x: Array) -> NDArray[np.bool_]:
        return x < 0

    def inside(self, c: Array) -> Array:
        return np.maximum(c, 0.0)

    def ranked(self, x: Array, centres: Array) -> Array:
        empty = centres == 0
        found = centres.sum(axis=1) - x @ np.log(np.where(empty, 1.0, centres)).T
        if empty.any():
            found = np.where((x > 0).astype(np.float64) @ empty.T > 0, np.inf, found)
        return np.asarray(found)

    def between(self, x: Array, c: Array) -> Array:
        x, c = np.broadcast_arrays(x, c)
        with np.errstate(divide="ignore", invalid="ignore"):
            bend = x * _log_ratio(x, c) - (x - c)
        bend = np.where(x > 0, np.where(c > 0, bend, np.inf), c)
        return np.asarray(np.maximum(bend, 0.0).sum(axis=-1))


@register
class ItakuraSaito(Divergence):
    """``sum x / c - log(x / c) - 1``; phi = -sum log x, x > 0."""

    name = "itakura_saito"
    domain = "numbers > 0"

    def refuse(self, x: Array) -> NDArray[np.bool_]:
        return x <= 0

    def inside(self, c: Array) -> Array:
        return np.maximum(c, np.finfo(np.float64).tiny)

    def ranked(self, x: Array, centres: Array) -> Array:
        return np.asarray(np.log(centres).sum(axis=1) + x @ (1 / centres).T)

    def between(self, x: Array, c: Array) -> Array:
        return np.asarray(np.maximum((x - c) / c - _log_ratio(x, c), 0.0).sum(axis=-1))
