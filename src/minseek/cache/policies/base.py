"""What a policy is: a score for every pair, and the mechanism around it that is the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import highest
from minseek.errors import InputError


@dataclass(frozen=True)
class Policy(ABC):
    """Which pairs survive an eviction.

    A policy of one's own is a frozen dataclass derived from this one with a `score`; `register` makes it known by name.

    Parameters
    ----------
    sinks : int
        The first tokens of the sequence always stay: much attention rests on them whatever they say (StreamingLLM,
        arXiv 2309.17453).
    recent : int
        The most recent tokens always stay.
    """

    sinks: int = 4
    recent: int = 32

    name: ClassVar[str] = ""
    source: ClassVar[str] = ""
    needs_queries: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field, value in (("sinks", self.sinks), ("recent", self.recent)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{field} must be an integer, not {value!r}")
            if value < 0:
                raise InputError(f"{field} must be 0 or more, not {value}")

    @property
    def window(self) -> int:
        """How many queries before an eviction are counted in `Candidates.latest`."""
        return 0

    @abstractmethod
    def score(self, pairs: Candidates) -> Tensor:
        """[L, H, n], float32: pairs with the highest scores stay."""

    def choose(self, pairs: Candidates, cap: int) -> Tensor:
        """Indices [L, H, cap], ascending, of the pairs that stay."""
        scores = self.score(pairs).clone()
        scores[pairs.arrivals < self.sinks] = torch.inf
        if self.recent:
            scores[..., -self.recent :] = torch.inf
        return highest(scores, cap)
