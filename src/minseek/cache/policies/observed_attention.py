"""Observed attention: pairs that received most attention per query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy


@dataclass(frozen=True)
class ObservedAttention(Policy):
    """Mean attention per query that could attend to the pair; over a group's query heads, the mean."""

    name: ClassVar[str] = "observed-attention"
    source: ClassVar[str] = "kvpress ObservedAttention; related to H2O, arXiv 2306.14048"

    def score(self, pairs: Candidates) -> Tensor:
        """Attention received, divided by the number of queries that could attend."""
        return pairs.attn_sum / pairs.num_queries_seen
