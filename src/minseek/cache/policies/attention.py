"""Policies that go by the attention a pair has received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count, check_odd, check_share


@dataclass(frozen=True)
class ObservedAttention(Policy):
    """Mean attention per query that could attend; over a group's query heads, the mean."""

    name: ClassVar[str] = "observed-attention"
    source: ClassVar[str] = "kvpress ObservedAttention; related to H2O, arXiv 2306.14048"

    def score(self, pairs: Candidates) -> Tensor:
        """Attention received, by opportunity."""
        return pairs.attn_sum / pairs.num_queries_seen


@dataclass(frozen=True)
class H2O(Policy):
    """Attention accumulated since a pair came, not normalised, and half of the cap for recent pairs.

    H2O gives the recent window and the heavy hitters equal shares; `recent` is a share of the cap here and adds to
    the tokens that every policy protects.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)

    name: ClassVar[str] = "heavy-hitters"
    source: ClassVar[str] = "H2O, arXiv 2306.14048"

    def score(self, pairs: Candidates) -> Tensor:
        """Attention received; the recent share is above all of it."""
        scores = pairs.attn_sum.clone()
        recent = int(self.share * pairs.cap)
        if recent:
            scores[..., -recent:] += pairs.num_tokens
        return scores


@dataclass(frozen=True)
class SnapKV(Policy):
    """Attention from the last queries, pooled over neighbours so that what surrounds a hit stays with it."""

    queries: int = 32
    kernel: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("queries", self.queries)
        check_odd("kernel", self.kernel)

    name: ClassVar[str] = "window"
    source: ClassVar[str] = "SnapKV, arXiv 2404.14469"

    @property
    def window(self) -> int:
        """The observation window."""
        return self.queries

    def score(self, pairs: Candidates) -> Tensor:
        """Pooled attention from the window (average pooling over pairs, as in SnapKV's released code)."""
        flat = pairs.attn_window_sum.flatten(0, 1)
        pooled = F.avg_pool1d(flat, self.kernel, stride=1, padding=self.kernel // 2, count_include_pad=False)
        return pooled.view_as(pairs.attn_window_sum)


@dataclass(frozen=True)
class TOVA(Policy):
    """The last query's attention, mean over all heads of a layer: one set for each layer."""

    recent: int = 1

    name: ClassVar[str] = "last-query"
    source: ClassVar[str] = "TOVA, arXiv 2401.06104"

    @property
    def window(self) -> int:
        """One query."""
        return 1

    def score(self, pairs: Candidates) -> Tensor:
        """Every head holds the same pairs, so their means stand for the layer."""
        return pairs.attn_window_sum.mean(1, keepdim=True).expand_as(pairs.attn_window_sum)
