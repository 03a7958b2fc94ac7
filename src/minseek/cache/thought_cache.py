"""KV cache of one sequence with contiguous positions, from which spans can be dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minseek.cache.base import CacheFullError, allocations
from minseek.cache.cache_shape import CacheShape, KeyStorage
from minseek.cache.observer import AttentionObserver
from minseek.cache.rotary import Rotary, rotate

if TYPE_CHECKING:
    from minseek.cache.slots import Slot


class ThoughtCache:
    """Keys and values of the prompt, the kept thoughts and the current one, without gaps.

    The token at index i always has position i: dropping a span moves the following tokens to the left and gives their
    keys the new positions (arXiv 2601.09855 stores keys without positions and encodes them before each thought; both
    ways of storing keys give the same scores up to rounding).

    Parameters
    ----------
    shape : CacheShape
        Layers, heads, head dimension and dtype.
    rotary : Rotary
        The model's position embedding.
    key_storage : {"re-rotated", "unrotated"}
        *re-rotated* stores keys with their position in them and turns a moved key by the difference, in float32.
        *unrotated* (as in the paper) stores keys without position and a rotated copy, recomputed from them when they
        move: no accumulated rounding, half as much memory again.
    max_tokens : int or None
        Capacity to allocate at once and never exceed. Without it the cache grows in blocks, a layer at a time.
    grow_by : int
        Tokens by which the cache grows.
    """

    def __init__(
        self,
        shape: CacheShape,
        rotary: Rotary,
        *,
        key_storage: KeyStorage = "re-rotated",
        max_tokens: int | None = None,
        grow_by: int = 128,
        device: torch.device | str = "cpu",
    ) -> None:
        shape.token_bytes(key_storage)  # refuses an unknown one
        self.shape, self.rotary, self.key_storage = shape, rotary, key_storage
        self.max_tokens, self.grow_by = max_tokens, grow_by
        self.length = 0
        self.peak_length = 0
        self.peak_bytes = 0
        self.capacity = max_tokens or 0
        self.allocation = next(allocations)
        empty = torch.empty(shape.num_kv_heads, self.capacity, shape.head_dim, dtype=shape.dtype, device=device)
        self.keys = [torch.empty_like(empty) for _ in range(shape.num_layers)]
        self.values = [torch.empty_like(empty) for _ in range(shape.num_layers)]
        self.raw_keys = [torch.empty_like(empty) for _ in range(shape.num_layers)] if key_storage == "unrotated" else []
        self._update_peak()

    @classmethod
    def over(cls, slot: Slot) -> ThoughtCache:
        """A cache in the memory of an empty slot, of its size; position i is stored for pair i of the slot."""
        cache = cls(slot.memory.shape.cache_shape, slot.rotary, max_tokens=0, device=slot.keys[0].device)
        cache.slot = slot
        cache.keys, cache.values = list(slot.keys), list(slot.values)
        for positions in slot.positions:
            positions.copy_(torch.arange(slot.capacity, dtype=torch.int32))
        cache.capacity = cache.max_tokens = slot.capacity
        cache.peak_bytes = slot.memory.shape.nbytes  # with what a policy would note of each pair
        return cache

    slot: Slot | None = None  # the slot whose memory it uses
    positions: Sequence[Tensor] = ()  # pair i has position i
    observer: AttentionObserver | None = None  # nothing is evicted by score

    @property
    def position(self) -> int:
        """Position of the next token."""
        return self.length

    @property
    def lengths(self) -> Sequence[int]:
        """The length, layer by layer."""
        return [self.length] * self.shape.num_layers

    @property
    def capacities(self) -> Sequence[int]:
        """The capacity, layer by layer."""
        return [self.capacity] * self.shape.num_layers

    @property
    def free_tokens(self) -> int:
        """Tokens that can be appended without growing."""
        return self.capacity - self.length

    @property
    def nbytes(self) -> int:
        """Bytes allocated now."""
        return sum(t.nbytes for t in (*self.keys, *self.values, *self.raw_keys))

    def reserve(self, tokens: int) -> None:
        """Allocate space for that many further tokens.

        Raises
        ------
        CacheFullError
            If they do not fit into `max_tokens`.
        """
        needed = self.length + tokens
        if needed <= self.capacity:
            return
        if self.max_tokens is not None:
            raise CacheFullError(f"the cache holds {self.max_tokens} tokens and {needed} are needed")
        before, after = self.capacity, -(-needed // self.grow_by) * self.grow_by
        for tensors in (self.keys, self.values, self.raw_keys):
            for layer, old in enumerate(tensors):
                new = old.new_empty(old.shape[0], after, old.shape[2])
                new[:, : self.length] = old[:, : self.length]
                tensors[layer] = new  # frees the old one, so only one layer is ever held twice
        self.capacity = after
        self.allocation = next(allocations)
        self._update_peak(extra=before * self.shape.token_bytes() // (2 * self.shape.num_layers))

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write T tokens of one layer after the current ones; `advance` follows when all layers are written.

        Parameters
        ----------
        keys, values : Tensor
            [H, T, D], keys without position.

        Returns
        -------
        keys, values : Tensor
            All of the layer, [H, length + T, D], keys with their positions. Views: valid until the next change.
        """
        start, stop = self.length, self.length + keys.shape[1]
        self.keys[layer][:, start:stop] = rotate(keys, *self.rotary.at(start, stop - start))
        self.values[layer][:, start:stop] = values
        if self.raw_keys:
            self.raw_keys[layer][:, start:stop] = keys
        return self.keys[layer][:, :stop], self.values[layer][:, :stop]

    def advance(self, tokens: int, positions_written: bool = False) -> None:
        """Count tokens that have been written in every layer; their positions are implicit."""
        self.length += tokens
        self.peak_length = max(self.peak_length, self.length)

    def drop(self, start: int, stop: int) -> None:
        """Drop tokens ``start .. stop - 1``; the following ones move left into the freed positions and memory."""
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"cannot drop tokens {start} to {stop} of {self.length}")
        moved = slice(stop, self.length)
        target = slice(start, start + self.length - stop)
        if start < stop < self.length:
            for layer in range(self.shape.num_layers):
                self._move(layer, moved, target)
        self.length -= stop - start

    def _move(self, layer: int, source: slice, target: slice) -> None:
        keys, values = self.keys[layer], self.values[layer]
        values[:, target] = values[:, source].clone()
        if self.raw_keys:
            raw = self.raw_keys[layer]
            raw[:, target] = raw[:, source].clone()
            keys[:, target] = rotate(raw[:, target], *self.rotary.at(target.start, target.stop - target.start))
        else:
            keys[:, target] = self.rotary.shift(keys[:, source], target.start - source.start)

    def _update_peak(self, extra: int = 0) -> None:
        self.peak_bytes = max(self.peak_bytes, self.nbytes + extra)
