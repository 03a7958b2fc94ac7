"""Interface between the forward pass and the KV cache of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Protocol

from torch import Tensor

from minseek.cache.observer import AttentionObserver
from minseek.cache.rotary import Rotary

allocations = count()  # unique over all caches, so that a stored address can be recognized as stale


class CacheFullError(RuntimeError):
    """More tokens were appended than the cache may hold; the reasoning loop ends a thought before this happens."""


class KVCache(Protocol):
    """Keys and values of one sequence: a `ThoughtCache` or a `Slot`.

    Attributes
    ----------
    keys, values : sequence of Tensor
        For each layer [H, capacity, D], keys with their positions; each head uses the first `lengths[layer]`.
    raw_keys : sequence of Tensor
        Keys without positions in the same shapes; empty where they are not stored.
    positions : sequence of Tensor
        For each layer [H, capacity], int32; empty where pair i has position i.
    lengths, capacities : sequence of int
        Pairs that each head holds and can hold, layer by layer.
    length, free_tokens, position : int
        Pairs that each head holds, in the layers that hold most; tokens that can be appended without an eviction or a
        new allocation; position of the next token.
    allocation : int
        A number that changes whenever the tensors are reallocated or moved.
    observer : AttentionObserver or None
        Receives attention weights, queries and surprise; None if nothing is ever evicted.
    """

    rotary: Rotary
    allocation: int

    @property
    def keys(self) -> Sequence[Tensor]: ...

    @property
    def values(self) -> Sequence[Tensor]: ...

    @property
    def raw_keys(self) -> Sequence[Tensor]: ...

    @property
    def positions(self) -> Sequence[Tensor]: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def capacities(self) -> Sequence[int]: ...

    @property
    def length(self) -> int: ...

    @property
    def free_tokens(self) -> int: ...

    @property
    def position(self) -> int: ...

    @property
    def observer(self) -> AttentionObserver | None: ...

    def reserve(self, tokens: int) -> None:
        """Allocate space for that many further tokens; `CacheFullError` if they do not fit."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys without positions and values [H, T, D]; all of the layer [H, length + T, D], keys with theirs."""

    def advance(self, tokens: int, positions_written: bool = False) -> None:
        """Count tokens that have been written in every layer.

        positions_written: `DecodeBatch.write_positions` has stored the positions and token indices already.
        """
