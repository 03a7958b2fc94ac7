"""What every engine of the search can do, whoever computes: the words in which the algorithms are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.points import Points

Array = NDArray[np.float64]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class Scan:
    """All single moves of n points, looked at one by one.

    Attributes
    ----------
    best : int32 [n]
        The cluster each point would best go to; -1 where there is no other.
    change : float64 [n]
        By how much the loss would change (inf where there is no other cluster).
    gap : float64 [n]
        How much farther the nearest other centre is than the own one (divergence of the nearest minus divergence of
        the own).
    rival : int32 [n]
        Which centre that is; -1 where there is no other.
    """

    best: Labels
    change: Array
    gap: Array
    rival: Labels


class Engine(Protocol):
    """Points, their clusters, and the steps that the algorithms are made of. Centres are in the data's own
    coordinates."""

    points: Points
    labels: Labels  # [n], -1: none yet
    sizes: Array  # [k] weights of the clusters

    def start(self, centres: Array) -> None:
        """Forget all labels; centres [k, d] are where they are."""

    def begin(self, labels: Labels) -> None:
        """Take these labels, [n]; centres become the means. For a cluster without points the centre means nothing."""

    def assign(self) -> int:
        """Find every point's nearest centre (its own unless another is nearer): how many points would change."""

    def label(self) -> None:
        """Let labels be what `assign` found; the centres stay: for points that only ask which is nearest."""

    def settle(self) -> None:
        """Let those points change."""

    def put(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        """Put some points into other clusters."""

    def recentre(self) -> None:
        """Centres become the means; one of a cluster without points stays."""

    def refresh(self) -> None:
        """Sums and means from the labels alone, so that no rounding adds up."""

    def sweep(self, tolerance: float) -> int:
        """Go through all points; each moves at once where that lowers the loss by more than `tolerance`. How many
        moved."""

    def scan(self) -> Scan:
        """Every single move, computed anew from the centres."""

    def distances(self) -> Array:
        """Divergence of each point to its own centre, [n]."""

    def loss(self) -> float:
        """Sum of weights times divergences to the own centres."""

    def noise(self, loss: float) -> float:
        """What rounding alone may change the loss by in a move, at this loss."""

    def centres(self) -> Array:
        """[k, d]."""

    def changes_of(self, point: int) -> Array:
        """By how much the loss changes when one point goes to each cluster, [k]; 0 for its own."""

    def trials(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        """Sum over points of weight times min(closest, divergence to the candidate) for each candidate point, [m] ->
        [m]."""

    def keep(self, candidate: int, closest: Array) -> None:
        """Lower `closest`, [n], to the divergence to that point where it is smaller."""


def rounding_noise(points: Points, reach: float, loss: float) -> float:
    """What a move's change may be off by: 2 v |x - c| times a few last digits of coordinates as large as `reach`."""
    weight = float(points.weight.max())
    return weight * 64 * float(np.finfo(np.float64).eps) * reach * float(np.sqrt(loss / points.weight.sum()))


def empties(sizes: Array) -> NDArray[np.int64]:
    """Clusters without points."""
    return np.flatnonzero(~(sizes > 0))


def any_engine(points: Points, divergence: Any, clusters: int, threads: int | None = None) -> Engine:
    """The fastest engine that can compute with this divergence on this machine."""
    from minseek.cluster.native import NativeEngine
    from minseek.cluster.plain import PlainEngine
    from minseek.cluster.work import kernels_for

    if divergence.name == "squared_euclidean":
        library = kernels_for(points)
        if library is not None:
            return NativeEngine(points, clusters, library, threads)
    return PlainEngine(points, divergence, clusters)
