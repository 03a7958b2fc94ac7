"""How much memory a slot takes, and how its layers share it."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.cache.cache_shape import CacheShape

_NOTES = 20  # bytes beside a pair that may be evicted: position, arrival (int32), attention received twice, a note


@dataclass(frozen=True)
class SlotShape:
    """The rectangle of one sequence: [layers, H, cap + block, D] keys and as many values.

    Attributes
    ----------
    shape : CacheShape
        Layers, heads, head dimension and dtype.
    cap : int
        Pairs per head that survive an eviction, on average over the layers.
    block : int
        Tokens between two evictions.
    evicts : bool
        Whether a policy decides; without one, a slot is full at cap + block tokens, and nothing is noted of its pairs.
    query_heads : int
        Query heads whose queries since the last eviction are kept for the policy, [query heads, block, D] in float32
        in each layer; 0 keeps none.
    hidden : int
        Size of a last hidden state. One, and the surprise of each pair's token, are kept for the policy; 0 keeps none.
    caps : tuple of int
        The cap of each layer, where they differ; their mean is `cap` or a little less. All layers have `cap + block`
        pairs a head until the slot is full for the first time: its memory is divided by these caps then.
    """

    shape: CacheShape
    cap: int
    block: int
    evicts: bool = True
    query_heads: int = 0
    hidden: int = 0
    caps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.caps and (len(self.caps) != self.shape.layers or min(self.caps) < 1):
            raise ValueError(f"caps must be one number of pairs for each of {self.shape.layers} layers: {self.caps}")
        if sum(self.caps) > self.shape.layers * self.cap:
            raise ValueError(f"caps by layer take {sum(self.caps)} pairs of {self.shape.layers * self.cap}")
        if self.caps and not self.evicts:
            raise ValueError("caps by layer are for slots with a policy")

    @property
    def capacity(self) -> int:
        """Pairs per head that a slot has room for, until it is divided."""
        return self.cap + self.block

    @property
    def largest(self) -> int:
        """Pairs per head that the layers with the largest cap have room for in the end."""
        return max(self.capacity, max(self.caps, default=0) + self.block)

    @property
    def stacks(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Caps in ascending order, each with the layers that have it."""
        caps = self.caps or (self.cap,) * self.shape.layers
        return tuple((cap, tuple(i for i, own in enumerate(caps) if own == cap)) for cap in sorted(set(caps)))

    def layout(self, divided: bool) -> list[tuple[int, int]]:
        """Where the memory of each stack begins in a slot's, in pairs, and the pairs per head that it has room for."""
        places, first = [], 0
        for cap, layers in self.stacks:
            capacity = cap + self.block if divided else self.capacity
            places.append((first, capacity))
            first += len(layers) * self.shape.heads * capacity
        return places

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


def caps_by_layer(
    cap: int, layers: int, favoured: tuple[int, ...], *, times: float, block: int, least: int, most: int
) -> tuple[int, ...]:
    """Caps with which some layers keep more pairs than others, at the same bytes.

    Parameters
    ----------
    cap : int
        The mean.
    layers : int
        How many there are.
    favoured : tuple of int
        The layers that keep more.
    times : float
        How many times the mean they keep, by whole blocks, so that all layers evict at the same tokens.
    block : int
        Tokens between two evictions.
    least, most : int
        What no layer's cap goes below and beyond.

    Returns
    -------
    tuple of int
        One for each layer; nothing if all are to have `cap`.
    """
    others = layers - len(favoured)
    if not favoured or not others:
        return ()
    more = min(int((times - 1) * cap), most - cap, max(cap - least, 0) * others // len(favoured)) // block * block
    if more <= 0:
        return ()
    less = -(-len(favoured) * more // others)
    return tuple(cap + more if layer in favoured else cap - less for layer in range(layers))
