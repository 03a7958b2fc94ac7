"""Policies that look at nothing: the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count


@dataclass(frozen=True)
class StreamingLLM(Policy):
    """The first tokens and the most recent ones."""

    name: ClassVar[str] = "sink-recent"
    source: ClassVar[str] = "StreamingLLM, arXiv 2309.17453"

    def score(self, pairs: Candidates) -> Tensor:
        """The later, the higher."""
        return pairs.token_index.float()


@dataclass(frozen=True)
class Random(Policy):
    """A uniform sample of all that came, with the protected head and tail: the honest control.

    Every pair draws its number once, when it comes, and the highest stay: after any number of evictions each pair
    that has left the recent window has had the same chance.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("seed", self.seed, least=0)

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "the control proposed in arXiv 2609.03430"

    def score(self, pairs: Candidates) -> Tensor:
        """The number drawn; it depends on the seed and on the place in the sequence, not on the batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pairs.num_tokens)
        layers, heads = pairs.policy_scores.shape[:2]
        drawn = torch.rand(layers, heads, pairs.num_new, generator=generator)
        pairs.policy_scores[..., pairs.num_pairs - pairs.num_new :] = drawn.to(pairs.policy_scores.device)
        return pairs.policy_scores
