"""Where the centres are at the beginning."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from minseek.cluster.backends import Array, any_engine
from minseek.cluster.divergences import Divergence
from minseek.cluster.points import Points

_ROUNDS, _OVERSAMPLING = 5, 2  # of k-means||, as its authors recommend
STARTS = ("k-means++", "k-means||", "random")


def start_centres(how: str, points: Points, divergence: Divergence, clusters: int, random: RandomState) -> Array:
    """Centres [k, d] chosen among the points."""
    if how == "random":
        return points.take(_random(points, clusters, random))
    if how == "k-means||":
        return _parallel(points, divergence, clusters, random)
    return points.take(_plus_plus(points, divergence, clusters, random))


def _random(points: Points, clusters: int, random: RandomState) -> NDArray[np.int64]:
    """Each drawn by weight from all points, with replacement, as the paper's reference code draws them."""
    weight = points.weight
    return np.asarray(random.choice(points.count, size=clusters, p=weight / weight.sum()), dtype=np.int64)


def _plus_plus(points: Points, divergence: Divergence, clusters: int, random: RandomState) -> NDArray[np.int64]:
    """Greedy k-means++: each centre is the best of 2 + ln k candidates that are drawn by weight times divergence.

    Source: Arthur, Vassilvitskii, *k-means++*, SODA 2007; the number of candidates is scikit-learn's. For Bregman
    divergences: Nock, Luosto, Kivinen, *Mixed Bregman Clustering with Approximation Guarantees*, ECML 2008.
    """
    engine = any_engine(points, divergence, 16)
    weight, tries = points.weight, 2 + int(np.log(clusters))
    chosen = np.empty(clusters, dtype=np.int64)
    closest = np.full(points.count, np.finfo(np.float64).max ** 0.5)
    chosen[0] = random.choice(points.count, p=weight / weight.sum())
    engine.keep(int(chosen[0]), closest)
    for k in range(1, clusters):
        reach = np.cumsum(weight * closest)
        drawn = np.searchsorted(reach, random.uniform(size=tries) * reach[-1])
        drawn = np.minimum(drawn, points.count - 1)
        chosen[k] = drawn[np.argmin(engine.trials(drawn, closest))]
        engine.keep(int(chosen[k]), closest)
    return chosen


def _parallel(points: Points, divergence: Divergence, clusters: int, random: RandomState) -> Array:
    """k-means||: in each of five rounds about 2 k candidates at once, then k-means++ among them, weighted by the
    points they are nearest to.

    Source: Bahmani, Moseley, Vattani, Kumar, Vassilvitskii, *Scalable K-Means++*, VLDB 2012.
    """
    weight = points.weight
    found = [np.array([random.choice(points.count, p=weight / weight.sum())])]
    closest = _distances(points, divergence, found[0])[0]
    for _ in range(_ROUNDS):
        chance = weight * closest
        if not chance.sum() > 0:
            break
        chance *= _OVERSAMPLING * clusters / chance.sum()
        more = np.flatnonzero(random.uniform(size=points.count) < chance)
        if len(more):
            found.append(more)
            closest = np.minimum(closest, _distances(points, divergence, more)[0])
    candidates = np.unique(np.concatenate(found))
    if len(candidates) < clusters:
        missing = random.permutation(np.setdiff1d(np.arange(points.count), candidates))
        candidates = np.concatenate([candidates, missing[: clusters - len(candidates)]])
    nearest = _distances(points, divergence, candidates)[1]
    counts = np.bincount(nearest, weights=weight, minlength=len(candidates))
    rows = points.take(candidates)
    few = Points(rows, weights=np.maximum(counts, np.finfo(np.float64).tiny))
    return few.take(_plus_plus(few, divergence, clusters, random))


def _distances(points: Points, divergence: Divergence, centres: NDArray[Any]) -> tuple[Array, NDArray[np.int32]]:
    """Divergence of each point to the nearest of some points, and which it is."""
    engine = any_engine(points, divergence, len(centres))
    engine.start(points.take(centres))
    engine.assign()
    engine.label()
    return np.minimum(engine.distances(), np.finfo(np.float64).max ** 0.5), engine.labels


def near_together(centres: Array, group: int) -> NDArray[np.int64]:
    """An order of centres [k, d] in which those of each `group` in a row are near each other: halved along the
    widest column, again and again."""
    order: list[NDArray[np.int64]] = []
    stack = [np.arange(len(centres))]
    while stack:
        ids = stack.pop()
        if len(ids) <= group:
            order.append(ids)
            continue
        column = np.ptp(centres[ids], axis=0).argmax()
        ids = ids[np.argsort(centres[ids, column], kind="stable")]
        half = -(-(len(ids) // 2) // group) * group
        stack += [ids[half:], ids[:half]]
    return np.concatenate(order)
