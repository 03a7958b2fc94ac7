"""Policies that go by the keys themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import cosine_to_mean, ranks
from minseek.cache.policies.base import Policy, check_count, check_share


@dataclass(frozen=True)
class KeyDiff(Policy):
    """Keys least similar to the mean direction of all.

    Parameters
    ----------
    rotated : bool
        Compare keys with their positions, as the paper does, or without them.
    """

    rotated: bool = True

    name: ClassVar[str] = "key-difference"
    source: ClassVar[str] = "KeyDiff, arXiv 2504.15364"

    def score(self, pairs: Candidates) -> Tensor:
        """Minus the cosine between a key and the mean normalised key."""
        if not self.rotated:
            return -pairs.prerope_cosine_to_mean()
        return -torch.cat([cosine_to_mean(layer[None]) for layer in pairs.keys])  # little at a time


@dataclass(frozen=True)
class ExpectedAttention(Policy):
    """The attention that future queries are expected to pay, times how much the value says.

    Queries without positions are taken as Gaussian, with the mean and covariance of those since the last eviction;
    rotations of the next `horizon` positions are averaged.
    """

    horizon: int = 512
    epsilon: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("horizon", self.horizon)
        check_share("epsilon", self.epsilon, most=torch.inf)

    name: ClassVar[str] = "expected-attention"
    source: ClassVar[str] = "Expected Attention, arXiv 2510.00636; kvpress"
    needs_queries: ClassVar[bool] = True

    def score(self, pairs: Candidates) -> Tensor:
        """E[exp(q k / sqrt(D))] normalised over keys, plus epsilon, times the value's norm; mean over the group."""
        assert pairs.queries is not None
        turn, heads = pairs.mean_rotation(self.horizon), pairs.keys.shape[1]
        dim = pairs.keys.shape[3]
        scores = []
        for keys, values, queries in zip(pairs.keys, pairs.values, pairs.queries, strict=True):  # little at a time
            mean = queries.mean(1)
            centred = queries - mean[:, None]
            covariance = turn @ (centred.transpose(1, 2) @ centred / queries.shape[1]) @ turn.T
            mean = (turn @ mean[..., None])[..., 0].view(heads, -1, 1, dim)
            each = keys.float()[:, None]
            spread = ((each @ covariance.view(heads, -1, dim, dim)) * each).sum(-1)
            weights = ((each * mean).sum(-1) / dim**0.5 + spread / (2 * dim)).softmax(-1).mean(1)
            scores.append((weights + self.epsilon) * values.float().norm(dim=-1))
        return torch.stack(scores)


@dataclass(frozen=True)
class RKV(Policy):
    """Attention from the last queries, less how much a key repeats others.

    Parameters
    ----------
    weight : float
        Lambda: the share of attention in the score.
    """

    weight: float = 0.1
    queries: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("weight", self.weight)
        check_count("queries", self.queries)

    name: ClassVar[str] = "redundancy-aware"
    source: ClassVar[str] = "R-KV, arXiv 2505.24133"

    @property
    def window(self) -> int:
        """The observation window."""
        return self.queries

    def score(self, pairs: Candidates) -> Tensor:
        """lambda attention - (1 - lambda) redundancy, each normalised over the pairs."""
        each = []
        for layer in pairs.keys:  # little at a time
            keys = F.normalize(layer.float(), dim=-1)
            each.append((keys @ keys.sum(1)[..., None])[..., 0] - 1)  # with every other key; its own cosine is 1
        redundancy = (torch.stack(each) / (pairs.num_pairs - 1)).softmax(-1)
        attention = pairs.attn_window_sum / pairs.attn_window_sum.sum(-1, keepdim=True).clamp_min(1e-9)
        return self.weight * attention - (1 - self.weight) * redundancy


@dataclass(frozen=True)
class RankSum(Policy):
    """Observed attention and key difference without positions, as the sum of both ranks."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("weight", self.weight, most=torch.inf)

    name: ClassVar[str] = "rank-sum"
    source: ClassVar[str] = "ours"

    def score(self, pairs: Candidates) -> Tensor:
        """What is looked at, and what is unlike the rest."""
        looked_at = ranks(pairs.attn_sum / pairs.num_queries_seen)
        return ranks(-pairs.prerope_cosine_to_mean(), self.weight, onto=looked_at)
