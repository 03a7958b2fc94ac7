"""Slots: fixed rectangles of cache, one for each sequence that is being read or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minseek.cache.kernels import keep_pairs
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.thought_cache import CacheFullError, CacheShape, allocations

_NOTES = 20  # bytes beside a pair that may be evicted: position, arrival (int32), attention received twice, a note


@dataclass(frozen=True)
class SlotShape:
    """The rectangle of one sequence: [layers, H, cap + block, D] keys and as many values.

    Attributes
    ----------
    shape : CacheShape
        Layers, heads, head dimension and dtype.
    cap : int
        Pairs per head that survive an eviction.
    block : int
        Tokens between two evictions.
    evicts : bool
        Whether a policy decides; without one, a slot is full at cap + block tokens, and nothing is noted of its pairs.
    query_heads : int
        Query heads whose queries since the last eviction are kept for the policy, [query heads, block, D] in float32
        in each layer; 0 keeps none.
    hidden : int
        Size of a last hidden state. One, and the surprise of each pair's token, are kept for the policy; 0 keeps none.
    """

    shape: CacheShape
    cap: int
    block: int
    evicts: bool = True
    query_heads: int = 0
    hidden: int = 0

    @property
    def capacity(self) -> int:
        """Pairs per head that a slot has room for."""
        return self.cap + self.block

    @property
    def pair_bytes(self) -> int:
        """Bytes of one pair of one head: key, value, and what is noted of them."""
        return 2 * self.shape.head_dim * self.shape.dtype.itemsize + (_NOTES if self.evicts else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of a slot."""
        queries = self.query_heads * self.block * self.shape.head_dim * 4
        surprise = 4 * (self.hidden + self.capacity) if self.hidden else 0
        return self.shape.layers * (self.shape.heads * self.capacity * self.pair_bytes + queries) + surprise


class SlotPool:
    """All slots of a run, allocated at once.

    Attributes
    ----------
    keys, values : Tensor
        [layers, slots, H, cap + block, D].
    positions, arrivals : Tensor
        [layers, slots, H, cap + block], int32: where a key stands, and the how-manieth token of its sequence it was.
    received, latest, notes : Tensor
        The same shape, float32; see `minseek.cache.Pairs`, and for notes, which are the policy's, `Candidates`.
    queries : Tensor
        [layers, slots, query heads, block, D], float32.
    surprise, ahead : Tensor
        [slots, cap + block] and [slots, hidden], float32.
    """

    def __init__(self, shape: SlotShape, rotary: Rotary, slots: int, *, device: torch.device | str = "cpu") -> None:
        self.shape, self.rotary = shape, rotary
        sizes = (shape.shape.layers, slots, shape.shape.heads, shape.capacity)
        # Zeros, not rubbish: a masked product with a NaN would be one.
        self.keys = torch.zeros(*sizes, shape.shape.head_dim, dtype=shape.shape.dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        noted = sizes if shape.evicts else (0, *sizes[1:])
        self.positions = torch.zeros(noted, dtype=torch.int32, device=device)
        self.arrivals = torch.zeros_like(self.positions)
        self.received = torch.zeros(noted, dtype=torch.float32, device=device)
        self.latest = torch.zeros_like(self.received)
        self.notes = torch.zeros_like(self.received)
        asked = (sizes[0], slots, shape.query_heads, shape.block, shape.shape.head_dim)
        self.queries = torch.zeros(asked, dtype=torch.float32, device=device)
        self.surprise = torch.zeros(slots, shape.capacity if shape.hidden else 0, dtype=torch.float32, device=device)
        self.ahead = torch.zeros(slots, shape.hidden, dtype=torch.float32, device=device)
        self.slots = [Slot(self, index) for index in range(slots)]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots."""
        counted = (self.positions, self.arrivals, self.received, self.latest, self.notes)
        return sum(t.nbytes for t in (self.keys, self.values, *counted, self.queries, self.surprise, self.ahead))


class Slot:
    """The key/value pairs of one sequence; each head of each layer keeps its own.

    Attributes
    ----------
    length : int
        Pairs that each head holds, in the order of their positions.
    survived : int
        How many of them the last eviction left.
    seen : int
        Tokens of the sequence so far.
    position : int
        Where the next token stands: at `seen`, as long as the sequence fits into the model's context; see `reencode`.
    evictions, reencodings : int
        How often `keep` and `reencode` were called.
    memory : dict
        What the policy remembers of the sequence as a whole.
    window : int
        How many queries before an eviction count as the latest.
    """

    raw_keys: Sequence[Tensor] = ()

    def __init__(self, pool: SlotPool, index: int) -> None:
        self.pool, self.index, self.rotary = pool, index, pool.rotary
        self.capacity = pool.shape.capacity
        self.allocation = next(allocations)
        self.keys, self.values = pool.keys[:, index].unbind(), pool.values[:, index].unbind()
        self.positions = pool.positions[:, index].unbind() if pool.shape.evicts else ()
        self.received = pool.received[:, index].unbind() if pool.shape.evicts else ()
        self.latest = pool.latest[:, index].unbind() if pool.shape.evicts else ()
        self.queries = pool.queries[:, index].unbind() if pool.shape.query_heads else ()
        self.ahead = pool.ahead[index] if pool.shape.hidden else None
        self.window = 0
        self.memory: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything: the next sequence begins."""
        self.length = self.survived = self.seen = self.position = 0
        self.evictions = self.reencodings = 0
        self.memory.clear()
        self.pool.ahead[self.index] = 0
        self.pool.values[:, self.index] = 0  # beyond a sequence's end weights are 0, and 0 times a NaN would be one
        if self.pool.shape.evicts:
            for tensor in (self.pool.received, self.pool.latest, self.pool.notes):
                tensor[:, self.index] = 0

    @property
    def full(self) -> bool:
        """Whether an eviction is due before the next token."""
        return self.length == self.capacity

    def arrivals_of(self, layer: int) -> Tensor:
        """[H, length], int32: the how-manieth token of its sequence each pair was."""
        return self.pool.arrivals[layer, self.index, :, : self.length]

    def counts_as_latest(self, tokens: int) -> int:
        """How many of the next `tokens` tokens are among the last `window` before the eviction."""
        return max(0, min(tokens, self.length + tokens - (self.capacity - self.window)))

    @property
    def asked(self) -> int:
        """Queries since the last eviction, modulo the block: where the next one is kept."""
        return (self.length - self.survived) % self.pool.shape.block

    def reserve(self, tokens: int) -> None:
        """Check that there is room."""
        if self.length + tokens > self.capacity:
            raise CacheFullError(f"a slot holds {self.capacity} tokens and {self.length + tokens} are wanted")

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T tokens of one layer behind the others; see `minseek.cache.Pairs`."""
        count = keys.shape[1]
        stop = self.length + count
        self.keys[layer][:, self.length : stop] = rotate(keys, *self.rotary.at(self.position, count))
        self.values[layer][:, self.length : stop] = values
        if self.positions:
            where = torch.arange(self.position, self.position + count, dtype=torch.int32, device=keys.device)
            self.positions[layer][:, self.length : stop] = where
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [H, G, T, length + T] of the tokens just appended."""
        if not self.received:
            return
        by_query, count = weights.mean(1), weights.shape[2]
        self.received[layer][:, : weights.shape[3]] += by_query.sum(1)
        late = self.counts_as_latest(count)
        self.latest[layer][:, : weights.shape[3]] += by_query[:, count - late :].sum(1)

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [H * G, T, D] of the tokens just appended, if the policy needs them."""
        if self.queries:
            last = queries[:, -self.pool.shape.block :]
            end = self.asked + queries.shape[1]
            at = torch.arange(end - last.shape[1], end, device=queries.device)
            self.queries[layer][:, at % self.pool.shape.block] = last.float()

    def advance(self, tokens: int) -> None:
        """Count tokens that have been written in every layer."""
        if self.pool.shape.evicts:
            came = torch.arange(self.seen, self.seen + tokens, dtype=torch.int32, device=self.pool.arrivals.device)
            self.pool.arrivals[:, self.index, :, self.length : self.length + tokens] = came
        self.length += tokens
        self.seen += tokens
        self.position += tokens

    def remember_surprise(self, surprise: Tensor, ahead: Tensor) -> None:
        """Keep the surprise of the newest tokens, and the state that tells what is expected next."""
        self.pool.surprise[self.index, self.length - len(surprise) : self.length] = surprise
        self.pool.ahead[self.index] = ahead

    def keep(self, chosen: Tensor) -> None:
        """Evict all pairs but the chosen ones.

        Parameters
        ----------
        chosen : Tensor
            [layers, H, n]: for each head the indices of the pairs that stay, ascending.
        """
        pool, count = self.pool, chosen.shape[2]
        moved = (pool.keys, pool.values, pool.positions, pool.arrivals, pool.received, pool.notes)
        keep_pairs([tensor[:, self.index] for tensor in moved], chosen)
        pool.received[:, self.index, :, count:] = 0
        pool.notes[:, self.index, :, count:] = 0
        pool.latest[:, self.index] = 0
        self.length = self.survived = count
        self.evictions += 1

    def reencode(self) -> None:
        """Let the pairs stand at contiguous positions from 0 on; what follows stands right behind them.

        Done when a sequence reaches the end of the model's context: positions stay in the range it was trained on.
        """
        pool, count = self.pool, self.length
        old = pool.positions[:, self.index, :, :count]
        new = torch.arange(count, dtype=torch.int32, device=old.device)
        angles = (new - old).float()[..., None] * self.rotary.inv_freq
        keys = pool.keys[:, self.index, :, :count]
        keys.copy_(rotate(keys, angles.cos(), angles.sin()))
        old.copy_(new.expand_as(old))
        self.position = count
        self.reencodings += 1
