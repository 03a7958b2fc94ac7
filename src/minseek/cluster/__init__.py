"""k-means for Bregman divergences that ends at a local optimum and proves it. Does not import torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minseek.cluster.certificate import Certificate, Move
    from minseek.cluster.divergences import KL, Divergence, ItakuraSaito, Mahalanobis, SquaredEuclidean, register
    from minseek.cluster.estimator import LOKMeans
    from minseek.cluster.verify import verify

from minseek.cluster.build import compile_in_background

_MODULES = {
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


def __getattr__(name: str) -> Any:  # scikit-learn is imported at first use; kernels are compiled meanwhile
    if name not in _MODULES:
        raise AttributeError(f"module 'minseek.cluster' has no attribute {name!r}")
    compile_in_background()
    module = import_module(f"minseek.cluster.{_MODULES[name]}")
    for public_name, module_name in _MODULES.items():
        if module_name == _MODULES[name]:
            globals()[public_name] = getattr(module, public_name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
