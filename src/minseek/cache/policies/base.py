"""Base class of eviction policies: a score for every pair, and the selection that all policies share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from minseek.cache.candidates import Candidates
from minseek.cache.kernels import topk_sorted
from minseek.cache.slots import Slot
from minseek.errors import InputError, check_type


@dataclass(frozen=True)
class Policy(ABC):
    """Rule for which pairs survive an eviction.

    To write your own, derive a frozen dataclass from this one with a `score`; `register` makes it known by name.

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
    needs_surprise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count("sinks", self.sinks, minimum=0)
        check_count("recent", self.recent, minimum=0)

    @property
    def window(self) -> int:
        """Number of queries before an eviction that `Candidates.attn_window_sum` covers."""
        return 0

    @property
    def induction_cap_factor(self) -> float:
        """Cap of layers with induction heads, in mean caps; 1 gives all layers the same cap."""
        return 1.0

    @abstractmethod
    def score(self, pairs: Candidates) -> Tensor:
        """Scores [L, H, n], float32; the pairs with the highest ones stay."""

    def choose(self, pairs: Candidates, cap: int) -> Tensor:
        """Indices [L, H, cap], ascending, of the pairs that stay."""
        scores = self.score(pairs).masked_fill(pairs.token_index < self.sinks, torch.inf)
        if self.recent:
            scores[..., -self.recent :] = torch.inf
        return topk_sorted(scores, cap)

    def evict(self, slot: Slot) -> None:
        """Evict from each full layer group of a slot, down to the group's cap."""
        slot.retain(
            [
                self.choose(Candidates(slot, group), group.cap)
                if not group.free_tokens and group.cap < group.length
                else None
                for group in slot.layer_groups
            ]
        )


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raise unless the value is an integer of at least `minimum`."""
    check_type(f"{name} must be an integer", value, int)
    if not minimum <= value < 2**31:
        raise InputError(f"{name} must be {minimum} or more, and below 2^31, not {value}")


def check_odd(name: str, value: int) -> None:
    """Raise unless the value is an odd integer: a pooling window needs a middle."""
    check_count(name, value)
    if value % 2 == 0:
        raise InputError(f"{name} must be odd, so that a pair is in the middle of its neighbors, not {value}")


def check_range(name: str, value: float, maximum: float = 1.0) -> None:
    """Raise unless the value is a number between 0 and `maximum`."""
    check_type(f"{name} must be a number", value, (int, float))
    if not 0 <= value <= maximum:
        raise InputError(f"{name} must be between 0 and {maximum:g}, not {value}")
