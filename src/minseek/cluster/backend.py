"""Backend interface used by the search algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.points import Points

Array = NDArray[np.float64]
Labels = NDArray[np.int32]


@dataclass(frozen=True)
class MoveScan:
    """The best single move of each of n points.

    Attributes
    ----------
    target : int32 [n]
        The cluster that the point would best move to; -1 if there is no other.
    change : float64 [n]
        Change of the loss by that move; inf if there is no other cluster.
    gap : float64 [n]
        Divergence to the nearest other center minus divergence to the own one.
    nearest_other : int32 [n]
        Index of that other center; -1 if there is none.
    """

    target: Labels
    change: Array
    gap: Array
    nearest_other: Labels


class Backend(Protocol):
    """Points, their clusters, and the steps that the algorithms consist of.

    Centers are passed in the coordinates of the data.
    """

    points: Points
    labels: Labels  # [n], -1: none yet
    sizes: Array  # [k] weights of the clusters

    def set_centers(self, centers: Array) -> None:
        """Set the centers, [k, d], and forget all labels."""

    def set_labels(self, labels: Labels) -> None:
        """Set the labels, [n], and move centers to the means. The center of a cluster without points is undefined."""

    def assign(self) -> int:
        """Find every point's nearest center, its own unless another is nearer; return how many points would change."""

    def accept_assignment(self) -> None:
        """Take the labels that `assign` found without updating sums or centers, for prediction."""

    def apply_assignment(self) -> None:
        """Move the points to the clusters that `assign` found, and update the sums."""

    def move_points(self, points: NDArray[np.int64], clusters: NDArray[np.int64]) -> None:
        """Move some points to other clusters, and update the sums."""

    def update_centers(self) -> None:
        """Move centers to the means of their clusters. The center of a cluster without points stays."""

    def recompute_sums(self) -> None:
        """Recompute sums and means from the labels alone, which removes accumulated rounding errors."""

    def sweep(self, tolerance: float) -> int:
        """Pass over all points, moving each at once if that lowers the loss by more than `tolerance`; return how many
        moved."""

    def scan_moves(self) -> MoveScan:
        """Evaluate every single move from the centers, without any stored bound."""

    def distances(self) -> Array:
        """Divergence of each point to its own center, [n]."""

    def loss(self) -> float:
        """Sum of weights times divergences to the own centers."""

    def rounding_error(self, loss: float) -> float:
        """Bound the rounding error of a move's loss change, given the loss."""

    def centers(self) -> Array:
        """Centers in the coordinates of the data, [k, d]."""

    def move_changes(self, point: int) -> Array:
        """Change of the loss if one point moved to each cluster, [k]; 0 for its own."""

    def nearest(self) -> tuple[Labels, Array]:
        """Nearest center of each point and the divergence to it, [n], whatever the other points are; -1 and -1 for
        points so far away that the divergence could overflow."""

    def pairwise(self, points: slice) -> Array:
        """Divergence of some points to every center, [m, k]; -1 for points too far away."""

    def candidate_costs(self, candidates: NDArray[np.int64], closest: Array) -> Array:
        """Sum over points of weight times min(closest, divergence to the candidate), for m candidate points: [m]."""

    def add_center(self, candidate: int, closest: Array) -> None:
        """Lower `closest`, [n], in place to the divergence to that point where it is smaller."""


def move_rounding_error(points: Points, max_norm: float, loss: float, *, merged: bool) -> float:
    """Upper bound on the rounding error of a move's loss change: 2 v |x - c| * O(eps) * max_norm.

    If a cluster holds several points (`merged`), a distance below eps * max_norm says nothing, not even if it is zero.
    """
    weight, eps = float(points.weight.max()), float(np.finfo(np.float64).eps)
    distance = float(np.sqrt(loss / points.weight.sum()))
    return weight * 64 * eps * max_norm * max(distance, eps * max_norm if merged else 0.0)


def empty_clusters(sizes: Array) -> NDArray[np.int64]:
    """Clusters without points."""
    return np.flatnonzero(~(sizes > 0))
