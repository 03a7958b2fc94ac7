"""Slots: fixed rectangles of cache, one for each sequence that is being read or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minseek.cache.base import CacheFullError, allocations
from minseek.cache.layer_groups import LayerGroup
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.slot_memory import FIELDS, SlotMemory
from minseek.cache.slot_shape import SlotShape


class SlotPool:
    """All slots of a run.

    Attributes
    ----------
    store : SlotMemory
        Their memory. Slots know it and not the pool, so that it is freed with the last who holds any of them.
    slots : list of Slot
    """

    def __init__(self, shape: SlotShape, rotary: Rotary, slots: int, *, device: torch.device | str = "cpu") -> None:
        self.store = SlotMemory(shape, rotary, slots, device=device)
        self.slots = [Slot(self.store, index) for index in range(slots)]


class Slot:
    """The key/value pairs of one sequence; each head of each layer keeps its own.

    Attributes
    ----------
    stacks : list of LayerGroup
        Layers that have the same cap, by caps ascending; one if all have. What a policy chooses from.
    divided : bool
        Whether the stacks have the memory that their caps ask for; until the slot is full for the first time, every
        layer has room for ``cap + block`` pairs a head.
    seen, fresh : int
        Tokens of the sequence so far; how many of them came since the last eviction.
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

    def __init__(self, store: SlotMemory, index: int) -> None:
        self.store, self.index, self.rotary = store, index, store.rotary
        self.stacks = [LayerGroup(layers, cap, store.shape.shape.heads) for cap, layers in store.shape.stacks]
        self._place = {layer: (stack, i) for stack in self.stacks for i, layer in enumerate(stack.layers)}
        self.queries = store.queries[:, index].unbind() if store.shape.query_heads else ()
        self.ahead = store.ahead[index] if store.shape.hidden else None
        self.window = 0
        self.memory: dict[str, Any] = {}
        self._lay_out(divided=False)
        self.clear()

    def _lay_out(self, *, divided: bool) -> None:
        """Let the stacks lie one behind the other, with room for their caps or for as many pairs; nothing is moved."""
        store = self.store
        for stack, place in zip(self.stacks, store.shape.layout(divided), strict=True):
            stack.lie(store, self.index, *place)
        self.divided = divided
        self.keys, self.values = self._by_layer("keys"), self._by_layer("values")
        noted = store.shape.evicts
        self.positions = self._by_layer("positions") if noted else ()
        self.attn_sum = self._by_layer("attn_sum") if noted else ()
        self.attn_window_sum = self._by_layer("attn_window_sum") if noted else ()
        self.capacities = [self._place[layer][0].capacity for layer in range(store.shape.shape.layers)]
        self.allocation = next(allocations)

    def _by_layer(self, field: str) -> Sequence[Tensor]:
        parts = {stack: getattr(stack, field).unbind() for stack in self.stacks}
        return [parts[stack][i] for stack, i in (self._place[layer] for layer in range(len(self._place)))]

    def clear(self) -> None:
        """Forget everything: the next sequence begins."""
        if self.divided:
            self._lay_out(divided=False)
        for stack in self.stacks:
            stack.length = stack.survived = 0
        self.seen = self.fresh = self.position = 0
        self.evictions = self.reencodings = 0
        self.memory.clear()
        self.store.ahead[self.index] = 0
        self.store.values[self.index] = 0  # beyond a sequence's end weights are 0, and 0 times a NaN would be one
        for tensor in (self.store.attn_sum, self.store.attn_window_sum, self.store.notes):
            tensor[self.index] = 0

    @property
    def capacity(self) -> int:
        """Pairs per head that there is room for, in the layers that have most."""
        return max(stack.capacity for stack in self.stacks)

    @property
    def length(self) -> int:
        """Pairs that each head holds, in the order of their positions, in the layers that hold most."""
        return max(stack.length for stack in self.stacks)

    @property
    def lengths(self) -> list[int]:
        """Pairs that each head holds, layer by layer."""
        return [self._place[layer][0].length for layer in range(len(self._place))]

    @property
    def room(self) -> int:
        """Tokens that there is room for before an eviction is due."""
        return min(stack.room for stack in self.stacks)

    def token_index_of(self, layer: int) -> Tensor:
        """[H, length], int32: the how-manieth token of its sequence each pair of a layer was."""
        stack, i = self._place[layer]
        return stack.token_index[i, :, : stack.length]

    def stack_of(self, layer: int) -> tuple[LayerGroup, int]:
        """The stack that a layer is in, and the how-manieth of it."""
        return self._place[layer]

    def num_in_window(self, tokens: int) -> int:
        """How many of the next `tokens` tokens are among the last `window` before the eviction."""
        return max(0, min(tokens, tokens - (self.room - self.window)))

    @property
    def asked(self) -> int:
        """Queries since the last eviction, modulo the block: where the next one is kept."""
        return self.fresh % self.store.shape.block

    def reserve(self, tokens: int) -> None:
        """Check that there is room."""
        if tokens > self.room:
            raise CacheFullError(f"a slot has room for {self.room} more tokens and {tokens} are wanted")

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T tokens of one layer behind the others; see `minseek.cache.KVCache`."""
        count, start = keys.shape[1], self._place[layer][0].length
        stop = start + count
        self.keys[layer][:, start:stop] = rotate(keys, *self.rotary.at(self.position, count))
        self.values[layer][:, start:stop] = values
        if self.positions:
            where = torch.arange(self.position, self.position + count, dtype=torch.int32, device=keys.device)
            self.positions[layer][:, start:stop] = where
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [H, G, T, length + T] of the tokens just appended."""
        if not self.attn_sum:
            return
        by_query, count = weights.mean(1), weights.shape[2]
        self.attn_sum[layer][:, : weights.shape[3]] += by_query.sum(1)
        late = self.num_in_window(count)
        self.attn_window_sum[layer][:, : weights.shape[3]] += by_query[:, count - late :].sum(1)

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [H * G, T, D] of the tokens just appended, if the policy needs them."""
        if self.queries:
            last = queries[:, -self.store.shape.block :]
            end = self.asked + queries.shape[1]
            at = torch.arange(end - last.shape[1], end, device=queries.device)
            self.queries[layer][:, at % self.store.shape.block] = last.float()

    def advance(self, tokens: int) -> None:
        """Count tokens that have been written in every layer."""
        for stack in self.stacks if self.store.shape.evicts else ():
            came = stack.token_index.narrow(2, stack.length, tokens)
            if tokens == 1:  # most often: in one operation
                came.fill_(self.seen)
            else:
                came.copy_(torch.arange(self.seen, self.seen + tokens, dtype=torch.int32, device=came.device))
        self.count(tokens)

    def count(self, tokens: int) -> None:
        """The same where `DecodeBatch` wrote them, and noted that they came."""
        for stack in self.stacks:
            stack.length += tokens
        self.seen += tokens
        self.fresh += tokens
        self.position += tokens

    def remember_surprise(self, surprise: Tensor, ahead: Tensor) -> None:
        """Keep the surprise of the newest tokens, and the state that tells what is expected next."""
        self.store.surprise[self.index, self.fresh - len(surprise) : self.fresh] = surprise
        self.store.ahead[self.index] = ahead

    def keep(self, chosen: Sequence[Tensor | None]) -> None:
        """Evict all pairs but the chosen ones; a slot whose caps differ is divided by them now.

        Parameters
        ----------
        chosen : sequence of Tensor or None
            For each stack [layers, H, n]: for each head the indices of the pairs that stay, ascending. None for a
            stack whose pairs all stay.
        """
        for stack, own in zip(self.stacks, chosen, strict=True):
            if own is not None:
                stack.keep(own)
        if len(self.stacks) > 1 and not self.divided:
            self._move_apart()
        for stack in self.stacks:
            stack.attn_window_sum.zero_()
        self.fresh = 0
        self.evictions += 1

    def _move_apart(self) -> None:
        """Give each stack the memory of its cap. Those with small caps lie first, so all pairs move to the left."""
        before = {stack: [getattr(stack, field) for field in FIELDS] for stack in self.stacks}
        self._lay_out(divided=True)
        for stack in self.stacks:
            stack.take(before[stack])

    def reencode(self) -> None:
        """Let the pairs stand at contiguous positions; what follows stands right behind them.

        Done when a sequence reaches the end of the model's context: positions stay in the range it was trained on. The
        layers that hold most begin at 0, the others so that their last pairs stand where those do.
        """
        self.position = self.length
        for stack in self.stacks:
            old = stack.positions[:, :, : stack.length]
            new = torch.arange(self.position - stack.length, self.position, dtype=torch.int32, device=old.device)
            angles = (new - old).float()[..., None] * self.rotary.inv_freq
            keys = stack.keys[:, :, : stack.length]
            keys.copy_(rotate(keys, angles.cos(), angles.sin()))
            old.copy_(new.expand_as(old))
        self.reencodings += 1
