"""Rank sum (ours): observed attention and key difference on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import ranks
from minseek.cache.policies.base import Policy, check_range


@dataclass(frozen=True)
class RankSum(Policy):
    """Observed attention and key difference without positions, as the sum of both ranks.

    Parameters
    ----------
    weight : float
        Weight of the rank of key difference.
    """

    weight: float = 1.0

    name: ClassVar[str] = "rank-sum"
    source: ClassVar[str] = "ours"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("weight", self.weight, maximum=torch.inf)

    def score(self, pairs: Candidates) -> Tensor:
        """Rank of attention received per query, plus the weighted rank of key difference."""
        attention_rank = ranks(pairs.attn_sum / pairs.num_queries_seen)
        return ranks(-pairs.prerope_cosine_to_mean(), self.weight, onto=attention_rank)
