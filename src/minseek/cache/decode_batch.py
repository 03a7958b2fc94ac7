"""One new token each of many sequences, written and attended to together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minseek.cache.base import KVCache
from minseek.cache.slot_memory import SlotMemory
from minseek.cache.slots import Slot
from minseek.cache.thought_cache import ThoughtCache


def slot_of(cache: KVCache) -> Slot | None:
    """The slot in which a sequence's pairs lie; None if they lie elsewhere."""
    if isinstance(cache, Slot):
        return cache
    return cache.slot if isinstance(cache, ThoughtCache) else None


NUM_FIXED = 7  # numbers of a sequence before its stacks' lengths


def input_row(token: int, cache: KVCache) -> list[int]:
    """What `DecodeBatch` needs to know of a sequence in a slot that is given a token: `FIXED` numbers, and lengths."""
    if isinstance(cache, Slot):
        lengths = [stack.length for stack in cache.stacks]
        late = cache.num_in_window(1)
        return [token, cache.index, cache.position, cache.seen, cache.fresh, cache.asked, late, *lengths]
    slot, length = slot_of(cache), cache.length
    assert slot is not None
    return [token, slot.index, length, length, 0, 0, 0, *[length] * len(slot.stacks)]


class DecodeBatch:
    """Sequences in slots that a pass gives one token each: few large operations instead of many small ones.

    B sequences in one store. All numbers that change from token to token come in a tensor, and no size depends on
    them: whoever repeats what was done, with other numbers in that tensor, does it for the next tokens.
    `models.recordings` does.

    Parameters
    ----------
    store : SlotMemory
    divided : bool
        Whether the slots are divided, all of them.
    numbers : Tensor
        [B, FIXED + stacks], int64: `input_row` each, slots ascending.
    within : sequence of int
        For each stack, how many pairs a head are looked at; n below. More than the longest sequence has.
    """

    def __init__(self, store: SlotMemory, divided: bool, numbers: Tensor, within: Sequence[int]) -> None:
        self._store, self._layout = store, store.shape.layout(divided)
        columns = numbers.unbind(1)
        self.tokens, self._slots, self._positions, self._seen, self._fresh, self._asked, self._late = columns[
            :NUM_FIXED
        ]
        self._lengths, self._within = columns[NUM_FIXED:], within
        self._all = len(numbers) == store.count  # so that nothing need be fetched
        self._rows = slice(None) if self._all else self._slots
        layers = [layers for _, layers in store.shape.stacks]
        self._place = {layer: (stack, i) for stack, own in enumerate(layers) for i, layer in enumerate(own)}
        cos, sin = (angles[:, None] for angles in store.rotary.of(self._positions))
        self._cos, self._sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        self._beyond = [
            torch.arange(n, device=numbers.device) > lengths[:, None]
            for n, lengths in zip(within, self._lengths, strict=True)
        ]

    def _stack(self, stack: int, whole: Tensor) -> Tensor:
        """[slots, layers, H, capacity, …] of a stack."""
        first, capacity = self._layout[stack]
        layers, heads = len(self._store.shape.stacks[stack][1]), self._store.shape.shape.heads
        own = whole[:, first : first + layers * heads * capacity]
        return own.view(len(whole), layers, heads, capacity, *whole.shape[2:])

    def _layer(self, layer: int, whole: Tensor) -> Tensor:
        """[slots, H, capacity, …] of a layer."""
        stack, i = self._place[layer]
        return self._stack(stack, whole)[:, i]

    def arrive(self) -> None:
        """Note where the new pairs stand and the how-manieth they are, in all layers; `append` follows in each."""
        if not self._store.shape.evicts:
            return
        for stack, lengths in enumerate(self._lengths):
            here = (self._slots, slice(None), slice(None), lengths)
            self._stack(stack, self._store.positions)[here] = self._positions.int()[:, None, None]
            self._stack(stack, self._store.token_index)[here] = self._seen.int()[:, None, None]

    def rotated(self, x: Tensor) -> Tensor:
        """Queries and keys [B, heads, D] at the positions of their tokens: as `rotate`, in fewer operations."""
        x32 = x.float()
        return torch.addcmul(x32 * self._cos, x32.roll(x.shape[2] // 2, -1), self._sin).to(x.dtype)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write rotated keys and values [B, H, D]; all of the layer, [B, H, n, D] each."""
        own_keys, own_values = self._layer(layer, self._store.keys), self._layer(layer, self._store.values)
        stack, _ = self._place[layer]
        own_keys[self._slots, :, self._lengths[stack]] = keys
        own_values[self._slots, :, self._lengths[stack]] = values
        # Several are fetched even if they are all: products want them one behind the other.
        here = (self._slots if len(keys) > 1 else self._rows, slice(None), slice(self._within[stack]))
        return own_keys[here], own_values[here]

    def unseen(self, layer: int, window: int | None) -> Tensor:
        """[B, 1 or H, n]: pairs that a token does not attend to."""
        stack, _ = self._place[layer]
        beyond = self._beyond[stack][:, None]
        if window is None:
            return beyond
        if not self._store.shape.evicts:
            at = torch.arange(self._within[stack], device=beyond.device)
        else:
            at = self._layer(layer, self._store.positions)[self._rows, :, : self._within[stack]]
        return beyond | (self._positions[:, None, None] - at >= window)

    def observe(self, layer: int, weights: Tensor) -> None:
        """Count attention weights [B, H, G, n], where slots do."""
        if not self._store.shape.evicts:
            return
        given = weights.mean(2)
        self._count(layer, self._store.attn_sum, given)
        self._count(layer, self._store.attn_window_sum, given * self._late[:, None, None])

    def _count(self, layer: int, whole: Tensor, given: Tensor) -> None:
        own = self._layer(layer, whole)[:, :, : given.shape[2]]
        counted = own[self._rows].add_(given)
        if not self._all:  # what was fetched is a copy
            own[self._slots] = counted

    def remember_queries(self, layer: int, queries: Tensor) -> None:
        """Keep queries without positions [B, H * G, D], if the policy needs them."""
        if self._store.shape.query_heads:
            self._store.queries[layer][self._slots, :, self._asked] = queries.float()

    @property
    def ahead(self) -> Tensor | None:
        """[B, hidden]: the last hidden state of each sequence's token before; None if nobody asks."""
        return self._store.ahead[self._slots] if self._store.shape.hidden else None

    def remember_surprise(self, surprise: Tensor, ahead: Tensor) -> None:
        """Keep how surprising the new tokens were [B], and their last hidden states [B, hidden]."""
        self._store.surprise[self._slots, self._fresh] = surprise
        self._store.ahead[self._slots] = ahead
