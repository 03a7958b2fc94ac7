"""Slots whose layers have different caps: partitioning of their memory, and the choice of caps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minseek.cache import CacheFullError, CacheShape, Rotary, Slot, SlotPool, SlotShape, ThoughtCache, caps_by_layer
from minseek.cache.policies import ObservedAttention
from tests.helpers.slots import observer_of

HEADS, DIM = 2, 4
FIELDS = ("keys", "values", "positions", "token_index", "attn_sum", "policy_scores")


def make_slots(caps: tuple[int, ...], cap: int, block: int, count: int = 3, device: str = "cpu") -> list[Slot]:
    shape = SlotShape(CacheShape(len(caps), HEADS, DIM, torch.float32), cap, block, hidden_size=1, caps=caps)
    return SlotPool(shape, Rotary(torch.tensor([1.0, 0.1], device=device)), count, device=device).slots


def fill(slot: Slot, tokens: int, rng: torch.Generator) -> None:
    """Append random pairs with attention and policy scores, as a model and a policy would."""
    for layer in range(len(slot.keys)):
        keys, values = torch.randn(2, HEADS, tokens, DIM, generator=rng).to(slot.keys[0].device)
        slot.append(layer, keys, values)
        given = torch.rand(HEADS, 1, tokens, slot.lengths[layer] + tokens, generator=rng)
        observer_of(slot).observe(layer, given.to(slot.keys[0].device))
    slot.advance(tokens)
    for group in slot.layer_groups:
        new = group.policy_scores[:, :, group.length - tokens : group.length]
        new.copy_(torch.rand(new.shape, generator=rng))


def held(slot: Slot) -> list[dict[str, Tensor]]:
    """Copies of the fields of each layer, [H, length, …]."""
    return [
        {name: getattr(group, name)[i, :, : group.length].clone() for name in FIELDS}
        for _, group, i in sorted((layer, g, i) for g in slot.layer_groups for i, layer in enumerate(g.layers))
    ]


def choices(slot: Slot, rng: torch.Generator) -> list[Tensor | None]:
    """Random pairs of the layer groups that are full."""
    chosen: list[Tensor | None] = []
    for group in slot.layer_groups:
        drawn = torch.rand(len(group.layers), HEADS, group.length, generator=rng)
        due = not group.free_tokens and group.cap < group.length
        chosen.append(drawn.topk(group.cap).indices.sort().values.to(group.keys.device) if due else None)
    return chosen


layers_and_caps = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(caps=layers_and_caps, block=st.integers(1, 9), seed=st.integers(0, 99))
def test_chosen_pairs_are_unchanged_by_moves(caps: list[int], block: int, seed: int) -> None:
    """Compared with plain copies; the neighboring slots keep every bit."""
    cap, rng = -(-sum(caps) // len(caps)), torch.Generator().manual_seed(seed)
    slots = make_slots(tuple(caps), cap, block)
    for slot in slots:
        fill(slot, slot.free_tokens, rng)
    neighbors, target = [held(slots[0]), held(slots[2])], slots[1]
    for _ in range(6):
        before, chosen = held(target), choices(target, rng)
        target.retain(chosen)
        after = held(target)
        for group, own in zip(target.layer_groups, chosen, strict=True):
            assert group.capacity == group.cap + block
            assert own is None or group.length == group.cap
            for i, layer in enumerate(group.layers):
                for name in FIELDS:
                    for head in range(HEADS):
                        was = before[layer][name][head]
                        wanted = was if own is None else was[own[i, head]]
                        assert torch.equal(after[layer][name][head], wanted), name
            for name in ("attn_sum", "policy_scores"):
                assert not getattr(group, name)[:, :, group.length :].any(), name
            assert not group.attn_window_sum.any()
        fill(target, target.free_tokens, rng)
    for slot, was in zip((slots[0], slots[2]), neighbors, strict=True):
        for layer, now in enumerate(held(slot)):
            assert all(torch.equal(now[name], was[layer][name]) for name in FIELDS)


@settings(deadline=None, max_examples=60)
@given(caps=layers_and_caps, block=st.integers(1, 9))
def test_layer_groups_partition_a_slots_memory_without_overlap(caps: list[int], block: int) -> None:
    cap = -(-sum(caps) // len(caps))
    (slot,) = make_slots(tuple(caps), cap, block, count=1)
    assert slot.memory.nbytes == slot.memory.shape.nbytes
    assert slot.memory.shape.nbytes == make_slots((cap,) * len(caps), cap, block, count=1)[0].memory.nbytes
    for partitioned in (False, True):
        if partitioned:
            fill(slot, slot.free_tokens, torch.Generator().manual_seed(0))
            slot.retain(choices(slot, torch.Generator().manual_seed(1)))
        for name in (*FIELDS, "attn_window_sum"):
            whole = getattr(slot.memory, name)
            whole.zero_()
            for group in slot.layer_groups:
                getattr(group, name).add_(1)
            assert whole.max() == 1, name
            rows = sum(HEADS * group.capacity * len(group.layers) for group in slot.layer_groups)
            assert int((whole != 0).sum()) == rows * (DIM if name in ("keys", "values") else 1)
    assert slot.capacities == [own + block for own in caps]


def test_a_slot_evicts_nothing_until_it_is_full_for_the_first_time(device: str) -> None:
    slot = make_slots((2, 10, 3), 5, 4, device=device)[1]
    assert (slot.capacities, slot.free_tokens, slot.partitioned) == ([9, 9, 9], 9, False)
    fill(slot, 9, torch.Generator().manual_seed(0))
    with pytest.raises(CacheFullError, match="with 0 free tokens cannot take 1"):
        slot.reserve(1)
    ObservedAttention(sinks=1, recent=1).evict(slot)
    assert (slot.capacities, slot.lengths, slot.partitioned) == ([6, 14, 7], [2, 9, 3], True)
    assert (slot.length, slot.capacity, slot.free_tokens, slot.evictions) == (9, 14, 4, 1)
    fill(slot, 4, torch.Generator().manual_seed(1))
    ObservedAttention(sinks=1, recent=1).evict(slot)  # the second layer can take one more
    assert (slot.lengths, slot.free_tokens) == ([2, 13, 3], 1)


def test_a_cleared_slot_is_no_longer_partitioned(device: str) -> None:
    used, new = make_slots((2, 10, 3), 5, 4, device=device)[:2]
    rng = torch.Generator().manual_seed(2)
    for _ in range(5):
        fill(used, used.free_tokens, rng)
        used.retain(choices(used, rng))
    before = used.allocation
    used.clear()
    assert used.allocation != before  # stored addresses are stale
    assert (used.capacities, used.lengths, used.partitioned) == (new.capacities, [0] * 3, False)
    assert observer_of(used).num_since_eviction == 0
    for slot in (used, new):
        fill(slot, 9, torch.Generator().manual_seed(3))
    for target, other in zip(held(used), held(new), strict=True):
        assert all(torch.equal(target[name], other[name]) for name in FIELDS)
    assert ThoughtCache.over(used).capacity == 9


def test_the_newest_pairs_have_the_same_positions_in_all_layers(device: str) -> None:
    slot, rng = make_slots((2, 10, 3), 5, 4, device=device)[0], torch.Generator().manual_seed(4)
    for _ in range(6):
        fill(slot, slot.free_tokens, rng)
        slot.retain(choices(slot, rng))
    slot.reencode()
    assert slot.position == slot.length == max(slot.lengths) > min(slot.lengths)
    for layer, length in enumerate(slot.lengths):
        assert slot.positions[layer][1, :length].tolist() == list(range(slot.length - length, slot.length))


@pytest.mark.parametrize(
    ("caps", "evicts", "message"),
    [
        ((5, 5), True, "one number of pairs for each of 3 layers"),
        ((5, 5, 6), True, "take 16 pairs of 15"),
        ((0, 5, 5), True, "one number of pairs"),
        ((5, 5, 5), False, "for slots with a policy"),
    ],
)
def test_invalid_caps_are_refused(caps: tuple[int, ...], evicts: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlotShape(CacheShape(3, HEADS, DIM, torch.float32), 5, 4, evicts, caps=caps)


@given(
    cap=st.integers(1, 3000),
    layers=st.integers(1, 80),
    favored=st.sets(st.integers(0, 79), max_size=14),
    factor=st.floats(1, 8),
    block=st.sampled_from([1, 16, 128]),
    min_cap=st.integers(1, 300),
    max_cap=st.integers(1, 20_000),
)
def test_caps_keep_the_mean_and_their_limits(
    cap: int, layers: int, favored: set[int], factor: float, block: int, min_cap: int, max_cap: int
) -> None:
    chosen = tuple(sorted(layer for layer in favored if layer < layers))
    caps = caps_by_layer(cap, layers, chosen, factor=factor, block=block, min_cap=min_cap, max_cap=max_cap)
    if not caps:
        spare = (cap - min_cap) * (layers - len(chosen)) // len(chosen) if chosen else 0
        assert not chosen or len(chosen) == layers or min(int((factor - 1) * cap), max_cap - cap, spare) < block
        return
    assert layers * (cap - 1) < sum(caps) <= layers * cap
    large, small = {caps[layer] for layer in chosen}, {caps[i] for i in range(layers) if i not in chosen}
    assert len(large) == len(small) == 1
    assert min_cap <= min(small) < cap < max(large) <= min(max_cap, factor * cap)
    assert (max(large) - cap) % block == 0  # so that all evict at the same tokens
