"""SnapKV: pooled attention from an observation window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count, check_odd


@dataclass(frozen=True)
class SnapKV(Policy):
    """Attention from the last queries, pooled over neighbors so that the context of a hit stays with it.

    Parameters
    ----------
    window_size : int
        Queries of the observation window.
    kernel_size : int
        Pairs over which attention is pooled, odd.
    """

    window_size: int = 32
    kernel_size: int = 5

    name: ClassVar[str] = "snapkv"
    source: ClassVar[str] = "SnapKV, arXiv 2404.14469"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window_size", self.window_size)
        check_odd("kernel_size", self.kernel_size)

    @property
    def window(self) -> int:
        """Queries of the observation window."""
        return self.window_size

    def score(self, pairs: Candidates) -> Tensor:
        """Pooled attention from the window (average pooling over pairs, as in SnapKV's released code)."""
        flat = pairs.attn_window_sum.flatten(0, 1)
        padding = self.kernel_size // 2
        pooled = F.avg_pool1d(flat, self.kernel_size, stride=1, padding=padding, count_include_pad=False)
        return pooled.view_as(pairs.attn_window_sum)
