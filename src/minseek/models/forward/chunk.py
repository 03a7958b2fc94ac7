"""What goes into one pass of the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minseek.cache import Pairs


@dataclass(frozen=True)
class Feed:
    """Tokens to append to one sequence's cache.

    Attributes
    ----------
    tokens : sequence of int
        At least one.
    cache : Pairs
        Where their keys and values go; no other feed of the same pass may have it.
    wanted : int
        How many of the last tokens' logits are wanted.
    """

    tokens: Sequence[int]
    cache: Pairs
    wanted: int = 0
