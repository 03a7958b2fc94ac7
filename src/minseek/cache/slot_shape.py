"""Bytes of a slot, and how its layers partition them."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.cache.cache_shape import CacheShape

# Bytes per evictable pair besides key and value: position and token index (int32), two attention sums, a policy score.
_METADATA_BYTES = 20


@dataclass(frozen=True)
class SlotShape:
    """Sizes of the rectangle of one sequence: [layers, H, cap + block, D] keys and as many values.

    Attributes
    ----------
    cache_shape : CacheShape
        Layers, heads, head dimension and dtype.
    cap : int
        Pairs per head that survive an eviction, on average over the layers.
    block : int
        Tokens between two evictions.
    evicts : bool
        A policy evicts pairs. Without one, a slot is full at cap + block tokens, and no metadata of pairs is stored.
    num_heads : int
        Query heads whose queries since the last eviction are kept for the policy, [num_heads, block, D] in float32 in
        each layer; 0 keeps none.
    hidden_size : int
        Size of the last hidden state. One, and the surprise of each pair's token, are kept for the policy; 0 keeps
        none.
    caps : tuple of int
        The cap of each layer, where they differ; their mean is `cap` or a little less. All layers have `cap + block`
        pairs a head until the slot is full for the first time; then its memory is partitioned by these caps.
    """

    cache_shape: CacheShape
    cap: int
    block: int
    evicts: bool = True
    num_heads: int = 0
    hidden_size: int = 0
    caps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        layers = self.cache_shape.num_layers
        if self.caps and (len(self.caps) != layers or min(self.caps) < 1):
            raise ValueError(f"caps must be one number of pairs for each of {layers} layers: {self.caps}")
        if sum(self.caps) > layers * self.cap:
            raise ValueError(f"caps by layer take {sum(self.caps)} pairs of {layers * self.cap}")
        if self.caps and not self.evicts:
            raise ValueError("caps by layer are for slots with a policy")

    @property
    def capacity(self) -> int:
        """Pairs per head that fit into a slot before it is partitioned."""
        return self.cap + self.block

    @property
    def max_capacity(self) -> int:
        """Pairs per head that ever fit into the layers with the largest cap."""
        return max(self.capacity, max(self.caps, default=0) + self.block)

    @property
    def layer_groups(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """Caps in ascending order, each with the layers that have it."""
        caps = self.caps or (self.cap,) * self.cache_shape.num_layers
        return tuple(
            (cap, tuple(i for i, layer_cap in enumerate(caps) if layer_cap == cap)) for cap in sorted(set(caps))
        )

    def layout(self, partitioned: bool) -> list[tuple[int, int]]:
        """First pair of each layer group in a slot's memory, and the pairs per head that fit into it."""
        places, first = [], 0
        for cap, layers in self.layer_groups:
            capacity = cap + self.block if partitioned else self.capacity
            places.append((first, capacity))
            first += len(layers) * self.cache_shape.num_kv_heads * capacity
        return places

    @property
    def pair_bytes(self) -> int:
        """Bytes of one pair of one head: key, value and metadata."""
        return 2 * self.cache_shape.head_dim * self.cache_shape.dtype.itemsize + (_METADATA_BYTES if self.evicts else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of a slot."""
        sizes = self.cache_shape
        queries = self.num_heads * self.block * sizes.head_dim * 4
        surprise = 4 * (self.hidden_size + self.capacity) if self.hidden_size else 0
        return sizes.num_layers * (sizes.num_kv_heads * self.capacity * self.pair_bytes + queries) + surprise


def caps_by_layer(
    cap: int, num_layers: int, favored: tuple[int, ...], *, factor: float, block: int, min_cap: int, max_cap: int
) -> tuple[int, ...]:
    """Caps with which some layers keep more pairs than others, in the same bytes.

    Parameters
    ----------
    cap : int
        Mean cap.
    num_layers : int
        Number of layers.
    favored : tuple of int
        Layers that keep more.
    factor : float
        Their cap in mean caps, rounded down to whole blocks so that all layers evict at the same tokens.
    block : int
        Tokens between two evictions.
    min_cap, max_cap : int
        Limits on every layer's cap.

    Returns
    -------
    tuple of int
        One cap for each layer; empty if all layers are to have `cap`.
    """
    others = num_layers - len(favored)
    if not favored or not others:
        return ()
    spare = max(cap - min_cap, 0) * others // len(favored)
    extra = min(int((factor - 1) * cap), max_cap - cap, spare) // block * block
    if extra <= 0:
        return ()
    reduction = -(-len(favored) * extra // others)
    return tuple(cap + extra if layer in favored else cap - reduction for layer in range(num_layers))
