"""Expected attention: attention that future queries are likely to pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count, check_range


@dataclass(frozen=True)
class ExpectedAttention(Policy):
    """Attention that future queries are expected to pay, times the norm of the value.

    Queries without positions are modeled as Gaussian, with the mean and covariance of those since the last eviction;
    rotations of the next `horizon` positions are averaged.

    Parameters
    ----------
    horizon : int
        Number of future positions.
    epsilon : float
        Added to the expected attention, so that the value's norm counts where it is tiny.
    """

    horizon: int = 512
    epsilon: float = 0.02

    name: ClassVar[str] = "expected-attention"
    source: ClassVar[str] = "Expected Attention, arXiv 2510.00636; kvpress"
    needs_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("horizon", self.horizon)
        check_range("epsilon", self.epsilon, maximum=torch.inf)

    def score(self, pairs: Candidates) -> Tensor:
        """E[exp(q k / sqrt(D))] normalized over keys, plus epsilon, times the value's norm; mean over the group."""
        assert pairs.queries is not None
        rotation, heads = pairs.mean_rotation(self.horizon), pairs.keys.shape[1]
        dim = pairs.keys.shape[3]
        scores = []
        for keys, values, queries in zip(pairs.keys, pairs.values, pairs.queries, strict=True):  # to save memory
            mean = queries.mean(1)
            centered = queries - mean[:, None]
            covariance = rotation @ (centered.transpose(1, 2) @ centered / queries.shape[1]) @ rotation.T
            mean = (rotation @ mean[..., None])[..., 0].view(heads, -1, 1, dim)
            keys_by_query_head = keys.float()[:, None]
            quadratic = ((keys_by_query_head @ covariance.view(heads, -1, dim, dim)) * keys_by_query_head).sum(-1)
            log_expected = (keys_by_query_head * mean).sum(-1) / dim**0.5 + quadratic / (2 * dim)
            weights = log_expected.softmax(-1).mean(1)
            scores.append((weights + self.epsilon) * values.float().norm(dim=-1))
        return torch.stack(scores)
