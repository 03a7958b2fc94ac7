"""R-KV: attention less redundancy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count, check_range


@dataclass(frozen=True)
class RKV(Policy):
    """Attention from the last queries, less the similarity of a key to the other keys.

    Parameters
    ----------
    weight : float
        Lambda: the share of attention in the score.
    window_size : int
        Queries of the observation window.
    """

    weight: float = 0.1
    window_size: int = 8

    name: ClassVar[str] = "r-kv"
    source: ClassVar[str] = "R-KV, arXiv 2505.24133"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("weight", self.weight)
        check_count("window_size", self.window_size)

    @property
    def window(self) -> int:
        """Queries of the observation window."""
        return self.window_size

    def score(self, pairs: Candidates) -> Tensor:
        """lambda attention - (1 - lambda) redundancy, each normalized over the pairs."""
        similarity = []
        for layer in pairs.keys:  # by layer, to save memory
            keys = F.normalize(layer.float(), dim=-1)
            similarity.append((keys @ keys.sum(1)[..., None])[..., 0] - 1)  # less the cosine of the key with itself
        redundancy = (torch.stack(similarity) / (pairs.num_pairs - 1)).softmax(-1)
        attention = pairs.attn_window_sum / pairs.attn_window_sum.sum(-1, keepdim=True).clamp_min(1e-9)
        return self.weight * attention - (1 - self.weight) * redundancy
