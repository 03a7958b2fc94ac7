"""What goes into one pass of the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minseek.cache import KVCache


@dataclass(frozen=True)
class SequenceChunk:
    """Tokens to append to one sequence's cache.

    Attributes
    ----------
    tokens : sequence of int
        At least one.
    cache : KVCache
        Where their keys and values go; no other feed of the same pass may have it.
    wanted : int
        How many of the last tokens' logits are wanted.
    """

    tokens: Sequence[int]
    cache: KVCache
    wanted: int = 0
