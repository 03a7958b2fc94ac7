"""ThoughtCache compared with a list of tokens that is cut and re-encoded in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minseek.cache import CacheFullError, CacheShape, Rotary, ThoughtCache
from minseek.cache.cache_shape import KeyStorage
from minseek.errors import InputError

LAYERS, HEADS, DIM = 2, 2, 8
INV_FREQ = 1.0 / 100.0 ** (torch.arange(0, DIM, 2) / DIM)
STORAGES: tuple[KeyStorage, ...] = ("re-rotated", "unrotated")


def make_cache(storage: KeyStorage, dtype: torch.dtype = torch.float32, **options: int) -> ThoughtCache:
    return ThoughtCache(CacheShape(LAYERS, HEADS, DIM, dtype), Rotary(INV_FREQ, 1.3), key_storage=storage, **options)


def fill(cache: ThoughtCache, count: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """Append random tokens; return for each its keys without position and its values, [L, H, D]."""
    keys = torch.randn(LAYERS, HEADS, count, DIM, generator=generator).to(cache.shape.dtype)
    values = torch.randn(LAYERS, HEADS, count, DIM, generator=generator).to(cache.shape.dtype)
    cache.reserve(count)
    for layer in range(LAYERS):
        cache.append(layer, keys[layer], values[layer])
    cache.advance(count)
    return [(keys[:, :, t], values[:, :, t]) for t in range(count)]


def encoded(tokens: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Expected keys at positions 0, 1, …, by complex multiplication in float64, and values, [L, H, T, D]."""
    keys = torch.stack([key for key, _ in tokens], dim=2).double()
    angles = torch.arange(len(tokens))[:, None] * INV_FREQ.double()
    turned = torch.complex(*keys.chunk(2, dim=-1)) * torch.polar(torch.full_like(angles, 1.3), angles)
    return torch.cat((turned.real, turned.imag), dim=-1), torch.stack([value for _, value in tokens], dim=2)


def held(cache: ThoughtCache) -> tuple[Tensor, Tensor]:
    keys = torch.stack([k[:, : cache.length] for k in cache.keys])
    return keys, torch.stack([v[:, : cache.length] for v in cache.values])


@pytest.mark.parametrize("storage", STORAGES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_appends_and_drops_equal_those_of_a_list(storage: KeyStorage, data: st.DataObject) -> None:
    cache, tokens = make_cache(storage, grow_by=data.draw(st.integers(1, 9))), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(data.draw(st.integers(1, 8))):
        tokens += fill(cache, data.draw(st.integers(1, 12)), generator)
        start = data.draw(st.integers(0, len(tokens)))
        stop = data.draw(st.integers(start, len(tokens)))
        cache.drop(start, stop)
        del tokens[start:stop]
    assert cache.length == len(tokens)
    if tokens:
        keys, values = encoded(tokens)
        torch.testing.assert_close(held(cache)[0].double(), keys, atol=2e-5, rtol=0)
        assert torch.equal(held(cache)[1], values)


def worst_error(cache: ThoughtCache, tokens: list[tuple[Tensor, Tensor]]) -> float:
    """Largest relative error of a key, over the cache's last tokens."""
    wanted = encoded(tokens)[0]
    got = held(cache)[0].double()
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


@pytest.mark.parametrize(
    ("storage", "dtype", "bound"),
    [
        ("unrotated", torch.float32, 1e-5),  # one rounding of the key and one of the angle
        ("unrotated", torch.bfloat16, 2.0**-8),  # one rounding
        ("re-rotated", torch.float32, 1000 * 2.0**-23),  # each move rounds once more, at worst in the same direction
        # In bfloat16 the same worst case says nothing after so many moves: see the next test for what happens.
    ],
)
def test_keys_are_accurate_after_a_thousand_moves(storage: KeyStorage, dtype: torch.dtype, bound: float) -> None:
    cache, generator = make_cache(storage, dtype), torch.Generator().manual_seed(0)
    fill(cache, 3000, generator)
    tokens = fill(cache, 16, generator)
    for _ in range(1000):
        cache.drop(0, 3)
    assert worst_error(cache, tokens) <= bound


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_a_thousand_kept_thoughts_both_storages_agree_to_a_rounding(dtype: torch.dtype) -> None:
    """A run that keeps one thought: each new one moves once, into the place of the old one."""
    caches = [make_cache(storage, dtype) for storage in STORAGES]
    tokens: list[tuple[Tensor, Tensor]] = []
    for cache in caches:
        generator = torch.Generator().manual_seed(0)
        tokens = first = fill(cache, 50, generator)
        kept = 0
        for _ in range(1000):
            new = fill(cache, int(torch.randint(5, 20, (), generator=generator)), generator)
            cache.drop(50, 50 + kept)
            tokens, kept = first + new, len(new)
    unit = 2.0**-8 if dtype == torch.bfloat16 else 1e-5
    assert worst_error(caches[0], tokens) <= 2 * unit
    assert worst_error(caches[1], tokens) <= unit
    re_rotated, unrotated = (held(cache)[0].float() for cache in caches)
    assert ((re_rotated - unrotated).norm(dim=-1) / unrotated.norm(dim=-1)).max() <= 3 * unit


@pytest.mark.parametrize("storage", STORAGES)
def test_dropped_memory_is_reused(storage: KeyStorage) -> None:
    cache, generator = make_cache(storage, grow_by=16), torch.Generator().manual_seed(0)
    fill(cache, 20, generator)
    fill(cache, 40, generator)
    bytes_before, addresses = cache.nbytes, [k.data_ptr() for k in cache.keys]
    for _ in range(50):
        cache.drop(20, 60)
        fill(cache, 40, generator)
    assert cache.nbytes == bytes_before == cache.capacity * cache.shape.token_bytes(storage)
    assert [k.data_ptr() for k in cache.keys] == addresses
    assert cache.peak_length == 60


def test_it_grows_in_steps_and_holds_only_one_layer_twice() -> None:
    cache, generator = make_cache("re-rotated", grow_by=16), torch.Generator().manual_seed(0)
    sizes = set()
    for _ in range(50):
        fill(cache, 1, generator)
        sizes.add(cache.capacity)
    assert sizes == {16, 32, 48, 64}
    one_layer = 48 * HEADS * DIM * 4
    assert cache.peak_bytes == 64 * cache.shape.token_bytes() + one_layer


@pytest.mark.parametrize("storage", STORAGES)
def test_a_limited_cache_is_allocated_at_once_and_never_grows(storage: KeyStorage) -> None:
    cache, generator = make_cache(storage, max_tokens=30), torch.Generator().manual_seed(0)
    assert cache.nbytes == 30 * cache.shape.token_bytes(storage)
    fill(cache, 30, generator)
    with pytest.raises(CacheFullError, match="holds 30 tokens and 31"):
        cache.reserve(1)
    assert cache.peak_bytes == cache.nbytes == 30 * cache.shape.token_bytes(storage)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_dropping_missing_tokens_is_an_error(start: int, stop: int) -> None:
    cache = make_cache("re-rotated")
    fill(cache, 5, torch.Generator())
    with pytest.raises(IndexError, match=f"cannot drop tokens {start} to {stop} of 5"):
        cache.drop(start, stop)


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(InputError, match="'paged'"):
        make_cache("paged")  # type: ignore[arg-type]
