"""k-means for Bregman divergences that ends at a local optimum and proves it. Does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minseek.cluster.certificate import Certificate, Move
    from minseek.cluster.divergences import KL, Divergence, ItakuraSaito, Mahalanobis, SquaredEuclidean, register
    from minseek.cluster.estimator import LOKMeans
    from minseek.cluster.verify import verify

from minseek.cluster.build import build_ahead

_HOMES = {
    **dict.fromkeys(("Certificate", "Move"), "certificate"),
    **dict.fromkeys(("KL", "Divergence", "ItakuraSaito", "Mahalanobis", "SquaredEuclidean", "register"), "divergences"),
    "LOKMeans": "estimator",
    "verify": "verify",
}

__all__ = [
    "KL",
    "Certificate",
    "Divergence",
    "ItakuraSaito",
    "LOKMeans",
    "Mahalanobis",
    "Move",
    "SquaredEuclidean",
    "register",
    "verify",
]


def __getattr__(name: str) -> Any:  # scikit-learn is imported when something is asked for; kernels are built meanwhile
    if name not in _HOMES:
        raise AttributeError(f"module 'minseek.cluster' has no attribute {name!r}")
    build_ahead()
    home = import_module(f"minseek.cluster.{_HOMES[name]}")
    for known, where in _HOMES.items():
        if where == _HOMES[name]:
            globals()[known] = getattr(home, known)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
