"""Slots: fixed rectangles of KV cache, one for each sequence in prefill or decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from minseek.cache.base import CacheFullError, allocations
from minseek.cache.layer_groups import LayerGroup, by_layer
from minseek.cache.observer import AttentionObserver
from minseek.cache.rotary import Rotary, rotate
from minseek.cache.slot_memory import PAIR_FIELDS, SlotMemory
from minseek.cache.slot_shape import SlotShape


class SlotPool:
    """All slots of a run.

    Parameters
    ----------
    shape : SlotShape
    rotary : Rotary
    num_slots : int
    window : int
        The policy's `window`: queries before an eviction that each slot's observer counts apart.

    Attributes
    ----------
    memory : SlotMemory
        Memory of all slots. A slot refers to it and not to the pool, so it is freed with the last slot in use.
    slots : list of Slot
    """

    def __init__(
        self, shape: SlotShape, rotary: Rotary, num_slots: int, *, window: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.memory = SlotMemory(shape, rotary, num_slots, device=device)
        self.slots = [Slot(self.memory, index, window) for index in range(num_slots)]


class Slot:
    """Keys and values of one sequence; each head of each layer keeps its own pairs.

    Attributes
    ----------
    layer_groups : list of LayerGroup
        Layers with the same cap, by ascending cap; one group if all caps are equal. A policy evicts group by group.
    partitioned : bool
        The groups have the memory that their caps call for. Until the slot is full for the first time, every layer
        holds ``cap + block`` pairs a head.
    num_tokens : int
        Tokens of the sequence so far, evicted ones included.
    position : int
        Position of the next token: `num_tokens`, until `reencode` lowers it at the end of the model's context.
    evictions, reencodings : int
        Calls of `retain` and `reencode` since `clear`.
    policy_state : dict
        The policy's own state of the sequence as a whole.
    observer : AttentionObserver or None
        Statistics for the policy; None without one.
    """

    raw_keys: Sequence[Tensor] = ()

    def __init__(self, memory: SlotMemory, index: int, window: int = 0) -> None:
        self.memory, self.index, self.rotary = memory, index, memory.rotary
        shape = memory.shape
        heads = shape.cache_shape.num_kv_heads
        self.layer_groups = [LayerGroup(layers, cap, heads) for cap, layers in shape.layer_groups]
        self._group_of_layer = {layer: group for group in self.layer_groups for layer in group.layers}
        self.observer = AttentionObserver(memory, index, self.layer_groups, window) if shape.evicts else None
        self.policy_state: dict[str, Any] = {}
        self._bind_views(partitioned=False)
        self.clear()

    def _bind_views(self, *, partitioned: bool) -> None:
        """Bind the groups to consecutive parts of memory, sized for equal capacities or by their caps."""
        memory = self.memory
        for group, span in zip(self.layer_groups, memory.shape.layout(partitioned), strict=True):
            group.bind(memory, self.index, *span)
        self.partitioned = partitioned
        self.keys, self.values = by_layer(self.layer_groups, "keys"), by_layer(self.layer_groups, "values")
        self.positions: Sequence[Tensor] = ()
        if self.observer is not None:
            self.positions = by_layer(self.layer_groups, "positions")
            self.observer.bind_views()
        self.capacities = [self._group_of_layer[layer].capacity for layer in range(len(self.keys))]
        self.allocation = next(allocations)

    def clear(self) -> None:
        """Empty the slot for the next sequence."""
        if self.partitioned:
            self._bind_views(partitioned=False)
        for group in self.layer_groups:
            group.length = group.num_survivors = 0
        self.num_tokens = self.position = 0
        self.evictions = self.reencodings = 0
        self.policy_state.clear()
        self.memory.clear(self.index)
        if self.observer is not None:
            self.observer.num_since_eviction = 0

    @property
    def capacity(self) -> int:
        """Pairs per head that fit, in the layers with the largest capacity."""
        return max(group.capacity for group in self.layer_groups)

    @property
    def length(self) -> int:
        """Pairs that each head holds, in the order of their positions, in the layers that hold most."""
        return max(group.length for group in self.layer_groups)

    @property
    def lengths(self) -> list[int]:
        """Pairs that each head holds, layer by layer."""
        return [self._group_of_layer[layer].length for layer in range(len(self.keys))]

    @property
    def free_tokens(self) -> int:
        """Tokens that can be appended before an eviction is due."""
        return min(group.free_tokens for group in self.layer_groups)

    def reserve(self, tokens: int) -> None:
        """Raise `CacheFullError` unless that many further tokens fit."""
        if tokens > self.free_tokens:
            raise CacheFullError(f"a slot with {self.free_tokens} free tokens cannot take {tokens}")

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T tokens of one layer after the others, as `KVCache` specifies."""
        count, start = keys.shape[1], self._group_of_layer[layer].length
        stop = start + count
        self.keys[layer][:, start:stop] = rotate(keys, *self.rotary.at(self.position, count))
        self.values[layer][:, start:stop] = values
        if self.positions:
            positions = torch.arange(self.position, self.position + count, dtype=torch.int32, device=keys.device)
            self.positions[layer][:, start:stop] = positions
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def advance(self, tokens: int, positions_written: bool = False) -> None:
        """Count tokens that have been written in every layer, as `KVCache` specifies."""
        if self.observer is not None:
            self.observer.num_since_eviction += tokens
            if not positions_written:
                self._write_token_index(tokens)
        for group in self.layer_groups:
            group.length += tokens
        self.num_tokens += tokens
        self.position += tokens

    def _write_token_index(self, tokens: int) -> None:
        for group in self.layer_groups:
            new = group.token_index.narrow(2, group.length, tokens)
            if tokens == 1:  # the most frequent case, in one operation
                new.fill_(self.num_tokens)
            else:
                stop = self.num_tokens + tokens
                new.copy_(torch.arange(self.num_tokens, stop, dtype=torch.int32, device=new.device))

    def retain(self, chosen: Sequence[Tensor | None]) -> None:
        """Evict all pairs but the chosen ones; a slot whose caps differ is partitioned by them at its first eviction.

        Parameters
        ----------
        chosen : sequence of Tensor or None
            For each layer group [layers, H, n]: for each head the indices of the pairs that stay, ascending. None for a
            group whose pairs all stay.
        """
        for group, own in zip(self.layer_groups, chosen, strict=True):
            if own is not None:
                group.retain(own)
        if len(self.layer_groups) > 1 and not self.partitioned:
            self._repartition()
        for group in self.layer_groups:
            group.attn_window_sum.zero_()
        if self.observer is not None:
            self.observer.num_since_eviction = 0
        self.evictions += 1

    def _repartition(self) -> None:
        """Give each group the memory of its cap. Groups with small caps come first, so all pairs move to the left."""
        previous = [[getattr(group, field) for field in PAIR_FIELDS] for group in self.layer_groups]
        self._bind_views(partitioned=True)
        for group, views in zip(self.layer_groups, previous, strict=True):
            group.copy_from(views)

    def reencode(self) -> None:
        """Re-rotate the keys to contiguous positions; the next token follows them.

        Done when a sequence reaches the end of the model's context, so that positions stay in the range that the model
        was trained on. The layers that hold most begin at 0; the others end at the same position as those.
        """
        self.position = self.length
        for group in self.layer_groups:
            old = group.positions[:, :, : group.length]
            new = torch.arange(self.position - group.length, self.position, dtype=torch.int32, device=old.device)
            angles = (new - old).float()[..., None] * self.rotary.inv_freq
            keys = group.keys[:, :, : group.length]
            keys.copy_(rotate(keys, angles.cos(), angles.sin()))
            old.copy_(new.expand_as(old))
        self.reencodings += 1
