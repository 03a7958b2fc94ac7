"""KeyDiff: keys unlike the mean key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import cosine_to_mean
from minseek.cache.policies.base import Policy


@dataclass(frozen=True)
class KeyDiff(Policy):
    """Keys least similar to the mean direction of all keys.

    Parameters
    ----------
    rotated : bool
        Compare keys with their positions, as the paper does, or without them.
    """

    rotated: bool = True

    name: ClassVar[str] = "keydiff"
    source: ClassVar[str] = "KeyDiff, arXiv 2504.15364"

    def score(self, pairs: Candidates) -> Tensor:
        """Minus the cosine between a key and the mean normalized key."""
        if not self.rotated:
            return -pairs.prerope_cosine_to_mean()
        return -torch.cat([cosine_to_mean(layer[None]) for layer in pairs.keys])  # by layer, to save memory
