"""Searches from several starts, of which the best is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minseek.cluster.backend import Array, Backend, Labels
from minseek.cluster.c_backend import PACK
from minseek.cluster.certificate import Certificate, certify
from minseek.cluster.init import order_by_proximity
from minseek.cluster.search import ALGORITHMS, Search


@dataclass(frozen=True)
class Restarts:
    """Algorithm and limits of a fit.

    Attributes
    ----------
    algorithm : str
        One of `ALGORITHMS`.
    n_init : int
        Number of starts.
    max_iter : int
        Passes of one start.
    tol : float
    verbose : bool
    """

    algorithm: str
    n_init: int
    max_iter: int
    tol: float
    verbose: bool

    def run(self, backend: Backend, draw_centers: Callable[[], Array]) -> Fit:
        """Search from each start, [k, d] centers in the backend's coordinates, and certify the best result."""
        best: tuple[float, Labels, Search, NDArray[np.int64]] | None = None
        for _ in range(self.n_init):
            centers = draw_centers()
            sweeps = self.algorithm == "sweep"  # packs of centers near each other have tighter bounds
            order = order_by_proximity(centers, PACK) if sweeps else np.arange(len(centers))
            search = Search(self.tol, self.max_iter, verbose=self.verbose)
            backend.set_centers(centers[order])
            ALGORITHMS[self.algorithm](backend, search)
            if self.n_init == 1:
                return self._certified(backend, search, order)
            loss = backend.loss()
            if best is None or loss < best[0]:
                best = loss, backend.labels.copy(), search, order
        assert best is not None
        backend.set_labels(best[1])
        return self._certified(backend, best[2], best[3])

    def _certified(self, backend: Backend, search: Search, order: NDArray[np.int64]) -> Fit:
        found = certify(backend, self.tol, limit_hit=search.limit_hit)
        moves = tuple(m._replace(source=int(order[m.source]), target=int(order[m.target])) for m in found.moves)
        certificate = Certificate(**{**vars(found), "moves": moves})
        labels = order.astype(np.int32)[backend.labels]
        return Fit(labels, backend.centers()[np.argsort(order)], certificate, search.passes)


@dataclass(frozen=True)
class Fit:
    """Result of the best start.

    Attributes
    ----------
    labels : int32 [n]
        Clusters of the points.
    centers : float64 [k, d]
        Centers in the backend's coordinates, in the order of the start.
    certificate : Certificate
    passes : int
        Passes over the data that changed something.
    """

    labels: Labels
    centers: Array
    certificate: Certificate
    passes: int
