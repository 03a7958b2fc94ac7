"""What the forward pass needs of the key/value pairs of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Protocol

from torch import Tensor

from minseek.cache.rotary import Rotary

allocations = count()  # unique over all caches: whoever holds addresses can tell when they are stale


class CacheFullError(RuntimeError):
    """More tokens were appended than the cache may hold; the reasoning loop ends a thought before this happens."""


class KVCache(Protocol):
    """The key/value pairs of one sequence: a `ThoughtCache` or a `Slot`.

    Attributes
    ----------
    keys, values : sequence of Tensor
        For each layer [H, capacity, D]; the first ones of each head, as many as `lengths` says, are in use, keys with
        their positions.
    raw_keys : sequence of Tensor
        Keys without positions in the same shapes, or nothing.
    positions : sequence of Tensor
        For each layer [H, capacity], int32; nothing where pair i stands at position i.
    received, latest : sequence of Tensor
        For each layer [H, capacity], float32: attention that each pair has received since it came, summed over
        queries, mean over a group's query heads, and the part of it from the latest queries. Nothing if nobody asks.
    queries : sequence of Tensor
        For each layer [H * G, block, D], float32, without positions; the next query goes to row `asked`, modulo the
        block. Nothing if nobody asks.
    ahead : Tensor or None
        [hidden], float32: the last hidden state of the newest token, which told what was expected next (zeros before
        the first token). None if nobody asks how surprising tokens are.
    lengths, capacities : sequence of int
        Pairs that each head holds and has room for, layer by layer.
    length, room, position : int
        Pairs that each head holds in the layers that hold most; tokens that there is room for without an eviction or a
        new allocation; where the next token stands.
    allocation : int
        Another number whenever the tensors lie elsewhere.
    """

    rotary: Rotary
    allocation: int

    @property
    def lengths(self) -> Sequence[int]: ...

    @property
    def capacities(self) -> Sequence[int]: ...

    @property
    def length(self) -> int: ...

    @property
    def room(self) -> int: ...

    @property
    def keys(self) -> Sequence[Tensor]: ...

    @property
    def values(self) -> Sequence[Tensor]: ...

    @property
    def raw_keys(self) -> Sequence[Tensor]: ...

    @property
    def positions(self) -> Sequence[Tensor]: ...

    @property
    def attn_sum(self) -> Sequence[Tensor]: ...

    @property
    def attn_window_sum(self) -> Sequence[Tensor]: ...

    @property
    def queries(self) -> Sequence[Tensor]: ...

    @property
    def ahead(self) -> Tensor | None: ...

    @property
    def position(self) -> int: ...

    @property
    def asked(self) -> int: ...

    def num_in_window(self, tokens: int) -> int:
        """How many of the next `tokens` tokens are among the latest queries."""

    def reserve(self, tokens: int) -> None:
        """Make room; `CacheFullError` if there is none."""

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys without positions and values [H, T, D]; all of the layer [H, length + T, D], keys with theirs."""

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [H, G, T, length + T] of the tokens just appended."""

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [H * G, T, D] of the tokens just appended."""

    def advance(self, tokens: int) -> None:
        """Count tokens that have been written in every layer."""

    def count(self, tokens: int) -> None:
        """The same where `DecodeBatch` wrote them."""

    def remember_surprise(self, surprise: Tensor, ahead: Tensor) -> None:
        """Keep how surprising the T newest tokens were [T], and the last one's last hidden state [hidden]."""
