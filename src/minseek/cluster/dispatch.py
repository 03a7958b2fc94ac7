"""The choice of a backend."""

from __future__ import annotations

from minseek.cluster.backend import Backend
from minseek.cluster.c_backend import CBackend
from minseek.cluster.divergences import Divergence
from minseek.cluster.kmeans_state import load_kernels
from minseek.cluster.numpy_backend import NumpyBackend
from minseek.cluster.points import Points


def make_backend(points: Points, divergence: Divergence, n_clusters: int, n_threads: int | None = None) -> Backend:
    """Create the fastest backend that supports this divergence on this machine."""
    if divergence.name == "squared_euclidean":
        library = load_kernels(points)
        if library is not None:
            return CBackend(points, n_clusters, library, n_threads)
    return NumpyBackend(points, divergence, n_clusters)
