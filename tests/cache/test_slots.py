"""Slots: bytes, evictions, re-encoded positions, and the kernels of an eviction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minseek.cache import CacheFullError, CacheShape, Candidates, Rotary, Slot, SlotPool, SlotShape, ThoughtCache
from minseek.cache import kernels as kernels_module
from minseek.cache.kernels import (
    boost_topk,
    cosine_to_mean,
    cosine_to_running_mean,
    keep_pairs,
    prerope_cosine_to_mean,
    ranks,
    topk_sorted,
    value_error,
)
from tests.helpers.slots import observer_of, token_index_of

LAYERS, HEADS, DIM, CAP, BLOCK = 3, 2, 8, 20, 12
INV_FREQ = 1.0 / 100.0 ** (torch.arange(0, DIM, 2) / DIM)
MOVED = ("keys", "values", "positions", "token_index", "attn_sum", "policy_scores")


@pytest.fixture(params=["C", "PyTorch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both backends of an eviction."""
    if request.param == "PyTorch":
        monkeypatch.setattr(kernels_module, "_library", lambda tensor: None)
    else:
        assert kernels_module._library(torch.zeros(1)) is not None
    return str(request.param)


def make_pool(count: int = 3, dtype: torch.dtype = torch.float32, device: str = "cpu") -> SlotPool:
    shape = SlotShape(CacheShape(LAYERS, HEADS, DIM, dtype), CAP, BLOCK, num_heads=4)
    return SlotPool(shape, Rotary(INV_FREQ.to(device), 1.3), count, device=device)


def fill(slot: Slot, count: int, rng: torch.Generator) -> Tensor:
    """Append random tokens; return their keys without positions, [L, H, T, D]."""
    device, dtype = slot.keys[0].device, slot.keys[0].dtype
    keys = torch.randn(LAYERS, HEADS, count, DIM, generator=rng).to(device, dtype)
    slot.reserve(count)
    for layer in range(LAYERS):
        slot.append(layer, keys[layer], torch.randn(HEADS, count, DIM, generator=rng).to(device, dtype))
        observer_of(slot).observe(layer, torch.rand(HEADS, 2, count, slot.length + count, generator=rng).to(device))
    slot.advance(count)
    return keys


def turned(raw: Tensor, positions: Tensor) -> Tensor:
    """Keys [..., D] at positions [...], by complex multiplication in float64."""
    angles = positions.double()[..., None] * INV_FREQ.double()
    product = torch.complex(*raw.cpu().double().chunk(2, dim=-1)) * torch.polar(torch.full_like(angles, 1.3), angles)
    return torch.cat((product.real, product.imag), dim=-1)


def random_choice(kept: int, count: int, rng: torch.Generator) -> Tensor:
    return torch.rand(LAYERS, HEADS, count, generator=rng).topk(kept).indices.sort().values


# Bytes


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 20), st.integers(1, 30), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    evicts=st.booleans(),
    group=st.integers(0, 3),
    hidden=st.integers(0, 9),
    slots=st.integers(1, 5),
)
def test_slot_bytes_are_those_allocated(
    sizes: tuple[int, ...], dtype: torch.dtype, evicts: bool, group: int, hidden: int, slots: int
) -> None:
    layers, heads, half, cap, block = sizes
    shape = SlotShape(CacheShape(layers, heads, 2 * half, dtype), cap, block, evicts, heads * group, hidden)
    pool = SlotPool(shape, Rotary(torch.ones(half)), slots)
    tensors = [value for value in vars(pool.memory).values() if isinstance(value, Tensor)]
    assert sum(t.untyped_storage().nbytes() for t in tensors) == pool.memory.nbytes == slots * shape.nbytes
    assert shape.capacity == cap + block
    assert pool.slots[-1].keys[-1].shape == (heads, cap + block, 2 * half)


def test_without_a_policy_a_slot_has_the_bytes_of_keys_and_values() -> None:
    shape = CacheShape(LAYERS, HEADS, DIM, torch.bfloat16)
    assert SlotShape(shape, CAP, BLOCK, evicts=False).nbytes == (CAP + BLOCK) * shape.token_bytes()


# Eviction


def copies(pool: SlotPool) -> dict[str, Tensor]:
    """[layers, slots, …] of each field."""
    stacked = {
        name: torch.stack([getattr(slot.layer_groups[0], name) for slot in pool.slots], 1)
        for name in (*MOVED, "attn_window_sum")
    }
    return {**stacked, "queries": pool.memory.queries.clone()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_retain_equals_a_list(path: str, dtype: torch.dtype, device: str) -> None:
    rng = torch.Generator().manual_seed(1)
    for index, kept in enumerate((1, 5, CAP, CAP + BLOCK - 1, CAP + BLOCK, CAP)):
        pool = make_pool(dtype=dtype, device=device)
        for slot in pool.slots:
            fill(slot, CAP + BLOCK, rng)
        pool.memory.policy_scores.copy_(torch.rand(pool.memory.policy_scores.shape, generator=rng))
        before, evicted = copies(pool), pool.slots[index % 3]
        chosen = random_choice(kept, CAP + BLOCK, rng)
        evicted.retain([chosen.to(device)])
        after = copies(pool)
        for name, old in before.items():
            new = after[name]
            for layer in range(LAYERS):
                for slot in pool.slots:
                    if slot is not evicted:
                        assert torch.equal(new[layer, slot.index], old[layer, slot.index]), name
                if name not in MOVED:
                    continue
                for head in range(HEADS):
                    was = old[layer, evicted.index, head]
                    wanted = [was[i] for i in chosen[layer, head].tolist()]
                    assert torch.equal(new[layer, evicted.index, head, :kept], torch.stack(wanted)), name
        for name in ("attn_sum", "policy_scores"):
            assert not after[name][:, evicted.index, :, kept:].any(), name
        assert not after["attn_window_sum"][:, evicted.index].any()
        assert (evicted.length, evicted.layer_groups[0].num_survivors) == (kept, kept)
        assert (evicted.num_tokens, evicted.position, observer_of(evicted).num_since_eviction) == (
            CAP + BLOCK,
            CAP + BLOCK,
            0,
        )
        assert (evicted.evictions, evicted.free_tokens) == (1, CAP + BLOCK - kept)


def test_every_head_keeps_its_own_pairs_over_many_evictions(path: str) -> None:
    """Over eight blocks, compared with a plain list of token index, position and key for each head."""
    pool, rng = make_pool(), torch.Generator().manual_seed(2)
    slot = pool.slots[1]
    lists: list[list[list[tuple[int, Tensor]]]] = [[[] for _ in range(HEADS)] for _ in range(LAYERS)]
    came = 0
    for _ in range(8):
        count = slot.capacity - slot.length
        keys = fill(slot, count, rng)
        for layer, heads in enumerate(lists):
            for head, pairs in enumerate(heads):
                pairs += [(came + t, keys[layer, head, t]) for t in range(count)]
        came += count
        chosen = random_choice(CAP, slot.length, rng)
        slot.retain([chosen])
        for layer, heads in enumerate(lists):
            for head, pairs in enumerate(heads):
                heads[head] = pairs = [pairs[i] for i in chosen[layer, head].tolist()]
                token_index = torch.tensor([index for index, _ in pairs], dtype=torch.int32)
                assert torch.equal(token_index_of(slot, layer)[head], token_index)
                assert torch.equal(slot.positions[layer][head, :CAP], token_index)  # each keeps its position
                wanted = turned(torch.stack([key for _, key in pairs]), token_index)
                torch.testing.assert_close(slot.keys[layer][head, :CAP].double(), wanted, atol=2e-5, rtol=0)
    assert (slot.num_tokens, slot.evictions) == (came, 8)


def test_both_backends_retain_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(kernels_module, "_library", lambda tensor: None)
        pool, rng = make_pool(dtype=torch.bfloat16), torch.Generator().manual_seed(3)
        for slot in pool.slots:
            fill(slot, CAP + BLOCK, rng)
        pool.slots[2].retain([random_choice(CAP, CAP + BLOCK, rng)])
        kept.append([copies(pool)[name][:, 2, :, :CAP] for name in MOVED])
    for native_kept, other in zip(*kept, strict=True):
        assert torch.equal(native_kept, other)


def test_retaining_all_pairs_moves_nothing(path: str) -> None:
    pool = make_pool()
    fill(pool.slots[0], CAP + BLOCK, torch.Generator().manual_seed(4))
    before = copies(pool)
    tensors = [getattr(pool.slots[0].layer_groups[0], name) for name in MOVED]
    keep_pairs(tensors, torch.arange(CAP + BLOCK).expand(LAYERS, HEADS, -1))
    for name in MOVED:
        assert torch.equal(copies(pool)[name], before[name])


# Positions


def test_reencoded_keys_have_the_new_positions(device: str) -> None:
    pool, rng = make_pool(device=device), torch.Generator().manual_seed(5)
    slot = pool.slots[1]
    raw = fill(slot, CAP + BLOCK, rng)
    for _ in range(3):
        chosen = random_choice(CAP, CAP + BLOCK, rng).to(device)
        slot.retain([chosen])
        raw = raw.gather(2, chosen[..., None].expand(-1, -1, -1, DIM))
        raw = torch.cat((raw, fill(slot, BLOCK, rng)), dim=2)
    old, untouched = slot.position, pool.memory.keys[0].clone()
    slot.reencode()
    positions = torch.arange(CAP + BLOCK)
    for layer in range(LAYERS):
        assert torch.equal(slot.positions[layer].cpu(), positions.int().expand(HEADS, -1))
    wanted = turned(raw, positions.expand(LAYERS, HEADS, -1))
    got = torch.stack(slot.keys)
    torch.testing.assert_close(got.cpu().double(), wanted, atol=5e-5, rtol=0)
    assert (slot.position, slot.reencodings, slot.num_tokens) == (CAP + BLOCK, 1, old)
    assert torch.equal(pool.memory.keys[0], untouched)
    slot.reencode()  # they have these positions already
    assert torch.equal(torch.stack(slot.keys), got)
    slot.retain([random_choice(CAP, CAP + BLOCK, rng).to(device)])
    fill(slot, 1, rng)
    assert slot.positions[0][:, CAP].tolist() == [CAP + BLOCK] * HEADS  # the next token follows them


def test_unrotated_keys_of_candidates_are_the_appended_ones() -> None:
    pool, rng = make_pool(), torch.Generator().manual_seed(6)
    slot = pool.slots[0]
    raw = fill(slot, CAP + BLOCK, rng)
    chosen = random_choice(CAP, CAP + BLOCK, rng)
    slot.retain([chosen])
    wanted = raw.gather(2, chosen[..., None].expand(-1, -1, -1, DIM))
    for _ in range(2):
        torch.testing.assert_close(Candidates(slot).unrotated, 1.3 * wanted, atol=3e-5, rtol=0)
        slot.reencode()


# A slot's life


def test_a_cleared_slot_equals_a_new_one() -> None:
    pool, rng = make_pool(), torch.Generator().manual_seed(7)
    used, other = pool.slots[1], pool.slots[2]
    for slot in (used, other):
        fill(slot, CAP + BLOCK, rng)
        slot.retain([random_choice(CAP, CAP + BLOCK, rng)])
        slot.reencode()
    fill(used, 3, rng)
    others = other.memory.attn_sum[2].clone()
    used.clear()
    assert (used.length, used.layer_groups[0].num_survivors, used.num_tokens, used.position) == (0,) * 4
    assert (observer_of(used).num_since_eviction, observer_of(used).query_index) == (0, 0)
    assert (used.evictions, used.reencodings, used.free_tokens) == (0, 0, CAP + BLOCK)
    for tensor in (pool.memory.attn_sum, pool.memory.attn_window_sum, pool.memory.policy_scores):
        assert not tensor[1].any()
    assert torch.equal(pool.memory.attn_sum[2], others)
    raw = fill(used, 5, rng)
    assert torch.equal(token_index_of(used, 0)[0], torch.arange(5, dtype=torch.int32))
    wanted = turned(raw, torch.arange(5).expand(LAYERS, HEADS, -1))
    torch.testing.assert_close(torch.stack(used.keys)[:, :, :5].double(), wanted, atol=2e-5, rtol=0)


def test_a_full_slot_takes_no_more_tokens() -> None:
    slot = make_pool().slots[0]
    slot.reserve(CAP + BLOCK)
    fill(slot, CAP + BLOCK - 2, torch.Generator().manual_seed(8))
    slot.reserve(2)
    with pytest.raises(CacheFullError, match=r"^a slot with 2 free tokens cannot take 3$"):
        slot.reserve(3)


@pytest.mark.parametrize("window", [0, 1, 5, BLOCK, BLOCK + 5, 1000])
def test_the_window_is_the_last_queries_before_the_eviction(window: int) -> None:
    """Every query of the window is counted once, for any split into chunks."""
    for chunks in ([32], [1] * 32, [7, 20, 5], [31, 1], [5, 27]):
        slot = make_pool(1).slots[0]
        observer_of(slot).window = window
        counted = []
        for count in chunks:
            late = observer_of(slot).num_in_window(count)
            counted += [False] * (count - late) + [True] * late
            slot.advance(count)
        assert counted == [index >= CAP + BLOCK - window for index in range(CAP + BLOCK)]


@pytest.mark.parametrize("chunks", [[1, 9, 12, 3, 1, 6], [32], [20, 12], [1] * 32])
def test_queries_of_the_last_block_are_kept(chunks: list[int]) -> None:
    slot, rng = make_pool(1).slots[0], torch.Generator().manual_seed(9)
    every = torch.randn(LAYERS, 4, CAP + 2 * BLOCK, DIM, generator=rng)
    at = 0
    for count in chunks:  # to the first eviction
        for layer in range(LAYERS):
            observer_of(slot).record_queries(layer, every[layer, :, at : at + count])
        slot.advance(count)
        at += count
    held = Candidates(slot).queries
    assert held is not None
    assert sorted(map(tuple, held[1, 2].tolist())) == sorted(map(tuple, every[1, 2, at - BLOCK : at].tolist()))
    slot.retain([torch.arange(CAP).expand(LAYERS, HEADS, -1)])
    for layer in range(LAYERS):
        observer_of(slot).record_queries(layer, every[layer, :, at : at + 5])
    slot.advance(5)
    held = Candidates(slot).queries
    assert held is not None
    assert torch.equal(held, every[:, :, at : at + 5])  # those since the eviction, no older ones


def test_a_thought_cache_uses_a_slots_memory() -> None:
    pool, rng = make_pool(), torch.Generator().manual_seed(10)
    untouched = copies(pool)
    slot = pool.slots[1]
    over = ThoughtCache.over(slot)
    own = ThoughtCache(pool.memory.shape.cache_shape, pool.memory.rotary, max_tokens=CAP + BLOCK)
    for count, start, stop in ((20, 5, 9), (10, 0, 3), (9, 30, 32), (2, 12, 32)):
        keys, values = (torch.randn(LAYERS, HEADS, count, DIM, generator=rng) for _ in range(2))
        for cache in (over, own):
            cache.reserve(count)
            for layer in range(LAYERS):
                cache.append(layer, keys[layer], values[layer])
            cache.advance(count)
            cache.drop(start, min(stop, cache.length))
        assert over.length == own.length
        for layer in range(LAYERS):
            assert torch.equal(slot.keys[layer][:, : own.length], own.keys[layer][:, : own.length])
            assert torch.equal(slot.values[layer][:, : own.length], own.values[layer][:, : own.length])
    assert [k.data_ptr() for k in over.keys] == [k.data_ptr() for k in slot.keys]
    assert over.nbytes == (CAP + BLOCK) * pool.memory.shape.cache_shape.token_bytes()
    assert over.peak_bytes == pool.memory.shape.nbytes >= over.nbytes  # what a policy would store counts, too
    over.reserve(over.capacity - over.length)
    with pytest.raises(CacheFullError, match=f"holds {CAP + BLOCK} tokens and {CAP + BLOCK + 1}"):
        over.reserve(over.capacity - over.length + 1)
    for name, old in untouched.items():
        for index in (0, 2):
            assert torch.equal(copies(pool)[name][:, index], old[:, index])


# Kernels


def test_ranks_equal_their_definition(path: str, device: str) -> None:
    rng = torch.Generator().manual_seed(11)
    for n in (1, 2, 3, 17, 200):
        for scores in (torch.randn(2, 3, n, generator=rng), torch.randint(0, 4, (2, 3, n), generator=rng) / 4):
            got = ranks(scores.to(device)).cpu()
            assert got.dtype == torch.float32
            for row, given_ranks in zip(scores.flatten(0, 1).tolist(), got.flatten(0, 1).tolist(), strict=True):
                order = sorted(range(n), key=lambda i: (row[i], i))  # of equal scores the later one ranks higher
                wanted = [order.index(i) / max(1, n - 1) for i in range(n)]
                assert given_ranks == pytest.approx(wanted, abs=1e-6)


def test_topk_sorted_equals_its_definition(path: str, device: str) -> None:
    rng = torch.Generator().manual_seed(14)
    for n, count in ((1, 1), (2, 1), (17, 16), (17, 17), (200, 3), (1000, 700)):
        for scores in (torch.randn(2, 3, n, generator=rng), torch.randint(-2, 2, (2, 3, n), generator=rng) / 4):
            scores[..., n // 2] = torch.inf
            scores[..., n // 3] = -torch.inf
            got = topk_sorted(scores.to(device), count).cpu()
            assert got.shape == (2, 3, count)
            assert got.dtype == torch.int64
            for row, places in zip(scores.flatten(0, 1).tolist(), got.flatten(0, 1).tolist(), strict=True):
                order = sorted(range(n), key=lambda i: (row[i], i))  # of equal scores the later one is higher
                assert places == sorted(order[n - count :])


def test_negative_zero_equals_zero(path: str) -> None:
    """Minus a cosine of 0 is -0.0; both backends treat it as equal to 0.0."""
    scores = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0, -1.0])
    assert ranks(scores).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.0])
    assert topk_sorted(scores, 3).tolist() == [2, 3, 4]


def test_ranks_of_infinities_and_of_a_view(path: str) -> None:
    scores = torch.tensor([[3.0, -torch.inf, torch.inf, 0.0, 0.0, 1.0]]).repeat(2, 1).T.contiguous().T
    assert ranks(scores).tolist()[1] == pytest.approx([0.8, 0.0, 1.0, 0.2, 0.4, 0.6])


def test_ranks_are_added_to_other_scores(path: str, device: str) -> None:
    rng = torch.Generator().manual_seed(15)
    scores, onto = (torch.randn(2, 3, 17, generator=rng).to(device) for _ in range(2))
    wanted = onto + 0.5 * ranks(scores)
    got = ranks(scores, 0.5, onto=onto)
    assert got is onto
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(ranks(scores, 3.0), 3 * ranks(scores))


def test_boost_topk_equals_its_definition(path: str, device: str) -> None:
    """With a threshold, and policy scores that are a view of a larger tensor."""
    rng = torch.Generator().manual_seed(16)
    for n, count in ((1, 1), (17, 5), (17, 17), (200, 60)):
        whole = torch.randint(0, 9, (2, 3, n + 4), generator=rng) / 4  # many are equal
        notes, scores = whole[:, :, :n], torch.randn(2, 3, n, generator=rng)
        got = scores.to(device, copy=True)
        boost_topk(got, whole.to(device)[:, :, :n], count, threshold=1.0, boost=2.5)
        for layer in range(2):
            for head in range(3):
                note = notes[layer, head].tolist()
                order = sorted(range(n), key=lambda i: (note[i], i))[n - count :]
                wanted = scores[layer, head].clone()
                for i in order:
                    wanted[i] += 2.5 if note[i] > 1.0 else 0
                torch.testing.assert_close(got[layer, head].cpu(), wanted)


@pytest.mark.parametrize("dim", [2, 16, 34, 64, 514])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cosine_to_running_mean_equals_its_definition(path: str, dim: int, dtype: torch.dtype, device: str) -> None:
    rng = torch.Generator().manual_seed(17)
    total = torch.zeros(2, 3, dim, device=device)
    came = torch.zeros(2, 3, 0, dim, dtype=torch.float64)
    for n in (1, 7, 20):
        new = torch.randn(2, 3, n, dim, generator=rng).to(device, dtype)
        came = torch.cat((came, torch.nn.functional.normalize(new.cpu().double(), dim=-1)), 2)
        direction = torch.nn.functional.normalize(came.sum(2), dim=-1)
        got = cosine_to_running_mean(new, total)
        torch.testing.assert_close(
            got.cpu().double(), (came[:, :, -n:] @ direction[..., None])[..., 0], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(total.cpu().double(), came.sum(2), atol=1e-4, rtol=0)


def naive_cosine_to_mean(keys: Tensor) -> Tensor:
    keys = keys.double()
    keys = keys / keys.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    mean = keys.mean(2, keepdim=True)
    given: Tensor = (keys * mean).sum(-1) / mean.norm(dim=-1).clamp_min(1e-300)
    return given


@pytest.mark.parametrize("dim", [2, 6, 10, 16, 34, 64, 512, 514])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prerope_cosine_to_mean_equals_its_definition(dim: int, dtype: torch.dtype) -> None:
    """In C where it is supported, and in PyTorch, for a slot in the middle of its pool."""
    rng, inv_freq = torch.Generator().manual_seed(12), 1.0 / 100.0 ** (torch.arange(0, dim, 2) / dim)
    shape = SlotShape(CacheShape(2, 3, dim, dtype), 10, 5)
    for n in (1, 2, 7, 15):
        pool = SlotPool(shape, Rotary(inv_freq, 1.3), 3)
        slot = pool.slots[1]
        raw = torch.randn(2, 3, n, dim, generator=rng)
        raw[1, 2, 0] = 0
        for layer in range(2):
            slot.append(layer, raw[layer].to(dtype), raw[layer].to(dtype))
        slot.advance(n)
        pairs, wanted = Candidates(slot), naive_cosine_to_mean(raw)
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(cosine_to_mean(pairs.unrotated).double(), wanted, atol=tolerance, rtol=0)
        torch.testing.assert_close(pairs.prerope_cosine_to_mean().double(), wanted, atol=tolerance, rtol=0)
        cos, sin = pool.memory.rotary.at(0, n)
        native = prerope_cosine_to_mean(pairs.keys, pairs.positions, cos.contiguous(), sin.contiguous())
        assert (native is None) == (dim > 512)
        if native is not None:
            torch.testing.assert_close(native, cosine_to_mean(pairs.unrotated), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim", [2, 10, 16, 34, 64, 512, 514])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_error_equals_its_definition(path: str, dim: int, dtype: torch.dtype, device: str) -> None:
    """In C where it is supported, and in PyTorch, for values in the middle of a pool."""
    rng = torch.Generator().manual_seed(15)
    for n in (1, 2, 7, 15):
        values = torch.randn(2, 3, 3, 15, dim, generator=rng).to(dtype).to(device)[:, 1, :, :n]
        weights = torch.rand(2, 3, n, generator=rng).to(device)
        weights[1, 2] = 0  # no attention
        exact, by = values.double().cpu(), weights.double().cpu()
        mean = (by[..., None] * exact).sum(2, keepdim=True) / by.sum(2)[..., None, None].clamp_min(1e-300)
        wanted = by * (exact - mean).norm(dim=-1)
        got = value_error(weights, values)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double().cpu(), wanted, atol=1e-5, rtol=1e-5)


def test_prerope_cosine_to_mean_in_float16() -> None:
    """Models can be loaded in float16 on a CPU."""
    pool = make_pool(dtype=torch.float16)
    raw = fill(pool.slots[1], CAP + BLOCK, torch.Generator().manual_seed(13))
    got = Candidates(pool.slots[1]).prerope_cosine_to_mean()
    torch.testing.assert_close(got.double(), naive_cosine_to_mean(raw), atol=5e-3, rtol=0)


def test_without_the_library_prerope_cosine_to_mean_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_module, "_library", lambda tensor: None)
    keys, positions = torch.randn(1, 1, 3, DIM), torch.zeros(1, 1, 3, dtype=torch.int32)
    cos, sin = Rotary(INV_FREQ).at(0, 1)
    assert prerope_cosine_to_mean(keys, positions, cos, sin) is None
