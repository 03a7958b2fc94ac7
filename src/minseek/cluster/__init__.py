"""k-means for Bregman divergences that ends at a local optimum and proves it. Does not import torch."""

from minseek.cluster.certificate import Certificate, Move
from minseek.cluster.divergences import KL, Divergence, ItakuraSaito, Mahalanobis, SquaredEuclidean, register
from minseek.cluster.estimator import LOKMeans
from minseek.cluster.verify import verify

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
