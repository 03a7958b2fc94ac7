"""TOVA: attention of the last query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy


@dataclass(frozen=True)
class TOVA(Policy):
    """The last query's attention, mean over all heads of a layer: one set of pairs for each layer."""

    recent: int = 1

    name: ClassVar[str] = "tova"
    source: ClassVar[str] = "TOVA, arXiv 2401.06104"

    @property
    def window(self) -> int:
        """One query."""
        return 1

    def score(self, pairs: Candidates) -> Tensor:
        """Mean over the layer's heads, which all hold the same pairs."""
        return pairs.attn_window_sum.mean(1, keepdim=True).expand_as(pairs.attn_window_sum)
