"""Baselines that look at neither keys nor attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.policies.base import Policy, check_count


@dataclass(frozen=True)
class StreamingLLM(Policy):
    """The first tokens (attention sinks) and the most recent ones."""

    name: ClassVar[str] = "streaming-llm"
    source: ClassVar[str] = "StreamingLLM, arXiv 2309.17453"

    def score(self, pairs: Candidates) -> Tensor:
        """Index of the token in the sequence: later pairs score higher."""
        return pairs.token_index.float()


@dataclass(frozen=True)
class Random(Policy):
    """A uniform sample of all pairs appended so far, with the protected first and last tokens: the random control.

    Every pair draws one number when it is appended, and the highest stay: after any number of evictions each pair
    outside the protected tokens has had the same chance.

    Parameters
    ----------
    seed : int
    """

    seed: int = 0

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "the control proposed in arXiv 2609.03430"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("seed", self.seed, minimum=0)

    def score(self, pairs: Candidates) -> Tensor:
        """The number drawn; it depends on the seed and the place in the sequence, not on the rest of the batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + pairs.num_tokens)
        layers, heads = pairs.policy_scores.shape[:2]
        drawn = torch.rand(layers, heads, pairs.num_new, generator=generator)
        pairs.policy_scores[..., pairs.num_pairs - pairs.num_new :] = drawn.to(pairs.policy_scores.device)
        return pairs.policy_scores
