"""Initial centers: k-means++, k-means|| and random points."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from minseek.cluster.backend import Array
from minseek.cluster.dispatch import make_backend
from minseek.cluster.divergences import Divergence
from minseek.cluster.points import Points

INIT_METHODS = ("k-means++", "k-means||", "random")
_ROUNDS, _OVERSAMPLING = 5, 2  # of k-means||, as its authors recommend
_LARGEST = np.finfo(np.float64).max ** 0.5


def initial_centers(method: str, points: Points, divergence: Divergence, n_clusters: int, rng: RandomState) -> Array:
    """Choose centers [k, d] among the points by one of `INIT_METHODS`."""
    if method == "random":
        return points.take(_random(points, n_clusters, rng))
    if method == "k-means||":
        return _kmeans_parallel(points, divergence, n_clusters, rng)
    return points.take(_kmeans_plus_plus(points, divergence, n_clusters, rng))


def _random(points: Points, n_clusters: int, rng: RandomState) -> NDArray[np.int64]:
    """Draw points by weight, with replacement, as the paper's reference code does."""
    weight = points.weight
    return np.asarray(rng.choice(points.count, size=n_clusters, p=weight / weight.sum()), dtype=np.int64)


def _kmeans_plus_plus(points: Points, divergence: Divergence, n_clusters: int, rng: RandomState) -> NDArray[np.int64]:
    """Greedy k-means++: each center is the best of 2 + ln k candidates that are drawn by weight times divergence.

    Source: Arthur, Vassilvitskii, *k-means++*, SODA 2007; the number of candidates is scikit-learn's. For Bregman
    divergences: Nock, Luosto, Kivinen, *Mixed Bregman Clustering with Approximation Guarantees*, ECML 2008.
    """
    backend = make_backend(points, divergence, 16)
    weight, n_candidates = points.weight, 2 + int(np.log(n_clusters))
    chosen = np.empty(n_clusters, dtype=np.int64)
    closest = np.full(points.count, _largest(divergence))
    chosen[0] = rng.choice(points.count, p=weight / weight.sum())
    backend.add_center(int(chosen[0]), closest)
    for k in range(1, n_clusters):
        cumulative = np.cumsum(weight * closest)
        candidates = np.searchsorted(cumulative, rng.uniform(size=n_candidates) * cumulative[-1])
        candidates = np.minimum(candidates, points.count - 1)
        chosen[k] = candidates[np.argmin(backend.candidate_costs(candidates, closest))]
        backend.add_center(int(chosen[k]), closest)
    return chosen


def _kmeans_parallel(points: Points, divergence: Divergence, n_clusters: int, rng: RandomState) -> Array:
    """k-means||: about 2 k candidates at once in each of five rounds, then k-means++ among them, weighted by the
    points nearest to each.

    Source: Bahmani, Moseley, Vattani, Kumar, Vassilvitskii, *Scalable K-Means++*, VLDB 2012.
    """
    weight = points.weight
    rounds = [np.array([rng.choice(points.count, p=weight / weight.sum())])]
    closest = _nearest(points, divergence, rounds[0])[0]
    for _ in range(_ROUNDS):
        probability = weight * closest
        if not probability.sum() > 0:
            break
        probability *= _OVERSAMPLING * n_clusters / probability.sum()
        drawn = np.flatnonzero(rng.uniform(size=points.count) < probability)
        if len(drawn):
            rounds.append(drawn)
            closest = np.minimum(closest, _nearest(points, divergence, drawn)[0])
    candidates = np.unique(np.concatenate(rounds))
    if len(candidates) < n_clusters:
        missing = rng.permutation(np.setdiff1d(np.arange(points.count), candidates))
        candidates = np.concatenate([candidates, missing[: n_clusters - len(candidates)]])
    nearest = _nearest(points, divergence, candidates)[1]
    counts = np.bincount(nearest, weights=weight, minlength=len(candidates))
    weights = np.maximum(counts, np.finfo(np.float64).tiny)
    sample = Points(points.take(candidates), weights=weights, frame=points.frame)
    return sample.take(_kmeans_plus_plus(sample, divergence, n_clusters, rng))


def _nearest(points: Points, divergence: Divergence, candidates: NDArray[np.int64]) -> tuple[Array, NDArray[np.int32]]:
    """Divergence of each point to the nearest candidate, [n], and the index of that candidate, [n]."""
    backend = make_backend(points, divergence, len(candidates))
    backend.set_centers(points.take(candidates))
    backend.assign()
    backend.accept_assignment()
    return np.minimum(backend.distances(), _largest(divergence)), backend.labels


def _largest(divergence: Divergence) -> float:
    """Cap on divergences, which may be infinite; squared distances fit, as `frame_of` has checked."""
    return np.inf if divergence.name == "squared_euclidean" else _LARGEST


def order_by_proximity(centers: Array, size: int) -> NDArray[np.int64]:
    """Order centers [k, d] so that each `size` in a row are near each other, by halving along the widest column."""
    order: list[NDArray[np.int64]] = []
    stack = [np.arange(len(centers))]
    while stack:
        ids = stack.pop()
        if len(ids) <= size:
            order.append(ids)
            continue
        column = np.ptp(centers[ids], axis=0).argmax()
        ids = ids[np.argsort(centers[ids, column], kind="stable")]
        half = -(-(len(ids) // 2) // size) * size
        stack += [ids[half:], ids[:half]]
    return np.concatenate(order)
