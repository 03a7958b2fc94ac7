"""H2O: heavy hitters and recent pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_range


@dataclass(frozen=True)
class H2O(Policy):
    """Attention accumulated since a pair was appended, not normalized, and half of the cap for recent pairs.

    H2O gives the recent window and the heavy hitters equal shares. The recent share is one of the cap here, and it
    includes the `recent` tokens that every policy protects.

    Parameters
    ----------
    recent_share : float
        Share of the cap for the most recent pairs.
    """

    recent_share: float = 0.5

    name: ClassVar[str] = "h2o"
    source: ClassVar[str] = "H2O, arXiv 2306.14048"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("recent_share", self.recent_share)

    def score(self, pairs: Candidates) -> Tensor:
        """Attention received, raised above every such sum for the recent share."""
        scores = pairs.attn_sum.clone()
        recent = int(self.recent_share * pairs.cap)
        if recent:
            scores[..., -recent:] += pairs.num_tokens
        return scores
