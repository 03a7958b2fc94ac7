"""Sampling: the same filters as transformers', reproducible draws, refusals that name the value."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from minseek import InputError, Sampling
from minseek.decode import Sampler

NEAR = 1e-5  # float32 sums of up to 2000 probabilities agree better than this


@st.composite
def many_logits(draw: st.DrawFn) -> Tensor:
    """Few arbitrary logits, or up to 2000: normal, flat, in large groups of ties, nearly flat."""
    if draw(st.booleans()):
        return torch.tensor(draw(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)))
    size, seed = draw(st.integers(1, 2000)), draw(st.integers(0, 2**32))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4)
    kind = draw(st.sampled_from(["normal", "flat", "ties", "nearly flat"]))
    return {"normal": noise * 2, "flat": torch.zeros(size), "ties": noise.round(), "nearly flat": noise / 100}[kind]


def shares() -> st.SearchStrategy[float]:
    return st.floats(0.01, 0.999)


def from_transformers(logits: Tensor, s: Sampling) -> dict[int, float]:
    """Probabilities of the tokens that transformers' generation would draw from."""
    scores = TemperatureLogitsWarper(float(s.temperature))(None, logits[None])
    if s.top_k is not None:
        scores = TopKLogitsWarper(s.top_k)(None, scores)
    if s.top_p < 1:
        scores = TopPLogitsWarper(s.top_p)(None, scores)
    if s.min_p > 0:
        scores = MinPLogitsWarper(s.min_p)(None, scores)
    kept = scores[0].isfinite().nonzero()[:, 0]
    return dict(zip(kept.tolist(), scores[0].double().softmax(-1)[kept].tolist(), strict=True))


def from_minseek(logits: Tensor, s: Sampling) -> dict[int, float]:
    probabilities, ids = Sampler(s).candidates(logits)
    assert len(ids) == len(set(ids.tolist()))
    return dict(zip(ids.tolist(), (probabilities.double() / probabilities.double().sum()).tolist(), strict=True))


def rounding_decides(logits: Tensor, s: Sampling) -> bool:
    """True if a token is so near a filter's threshold that float32 may put it on either side."""
    p = (logits.double() / s.temperature).softmax(-1).sort(descending=True).values
    if s.top_k is not None and s.top_k < len(p):
        if p[s.top_k] > p[s.top_k - 1] * (1 - NEAR):
            return True
        p = p[: s.top_k] / p[: s.top_k].sum()
    sums = p.cumsum(0)[:-1]
    at_top_p = s.top_p < 1 and bool(((sums - s.top_p).abs() < NEAR).any())
    return at_top_p or bool(((p / p[0] / max(s.min_p, 1e-30) - 1).abs() < NEAR).any())


@given(
    many_logits(),
    st.floats(0.25, 4),
    st.none() | st.integers(1, 2500),
    st.just(1.0) | shares(),
    st.just(0.0) | shares(),
)
@settings(deadline=None, max_examples=80)
def test_the_filters_keep_what_those_of_transformers_keep(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    s = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assume(not rounding_decides(logits, s))
    ours, theirs = from_minseek(logits, s), from_transformers(logits, s)
    assert sorted(ours.values()) == pytest.approx(sorted(theirs.values()), rel=1e-4)
    # A threshold may separate equally probable tokens arbitrarily: only those may differ.
    both = ours | theirs
    least = min(theirs.values())
    assert all(both[i] == pytest.approx(least, rel=1e-4) for i in ours.keys() ^ theirs.keys())
    assert all(ours[i] == pytest.approx(theirs[i], rel=1e-4) for i in ours.keys() & theirs.keys())


@pytest.mark.parametrize(
    ("size", "top_p"), [(257, 0.999), (1000, 0.5), (1000, 0.95), (2000, 0.2), (2000, 0.9), (9000, 0.7)]
)
def test_top_p_reaches_beyond_the_first_256_candidates_of_a_flat_distribution(size: int, top_p: float) -> None:
    _, ids = Sampler(Sampling(temperature=1, top_p=top_p)).candidates(torch.zeros(size))
    assert len(set(ids.tolist())) == len(ids) == pytest.approx(size * top_p, abs=1.01)


def test_min_p_reaches_beyond_the_first_256_candidates() -> None:
    logits = torch.cat([torch.zeros(700), torch.full((300,), -3.0)])
    _, ids = Sampler(Sampling(temperature=1, top_p=1, min_p=0.1)).candidates(logits)
    assert sorted(ids.tolist()) == list(range(700))


@given(st.integers(1, 400), st.integers(1, 500))
@settings(deadline=None, max_examples=40)
def test_top_k_keeps_k_of_equally_probable_tokens(size: int, top_k: int) -> None:
    _, ids = Sampler(Sampling(temperature=1, top_k=top_k, top_p=1)).candidates(torch.zeros(size))
    assert len(set(ids.tolist())) == len(ids) == min(size, top_k)


def test_min_p_of_one_keeps_all_of_the_most_probable() -> None:
    _, ids = Sampler(Sampling(temperature=0.7, top_p=1, min_p=1)).candidates(torch.tensor([2.0, 5, 1, 5, 4.99]))
    assert sorted(ids.tolist()) == [1, 3]


@given(many_logits(), st.floats(0.25, 4), shares())
@settings(deadline=None, max_examples=30)
def test_filtered_candidates_come_most_probable_first(logits: Tensor, temperature: float, top_p: float) -> None:
    probabilities, ids = Sampler(Sampling(temperature=temperature, top_p=top_p)).candidates(logits)
    assert probabilities[0] == probabilities.max()
    assert (probabilities.diff() <= 0).all()
    assert (logits[ids].diff() <= 1e-5).all()


@given(many_logits())
@settings(deadline=None, max_examples=50)
def test_greedy_is_the_argmax_whatever_else_is_set(logits: Tensor) -> None:
    for s in (Sampling(temperature=0), Sampling(temperature=0, top_k=3, top_p=0.1, min_p=0.5, seed=1)):
        assert logits[Sampler(s).pick(logits)] == logits.max()


@given(
    many_logits(), st.data(), st.sampled_from([{}, {"top_k": 3}, {"min_p": 0.2}, {"top_p": 1.0}, {"temperature": 0}])
)
@settings(deadline=None, max_examples=40)
def test_a_banned_token_is_never_picked(logits: Tensor, data: st.DataObject, options: dict[str, Any]) -> None:
    assume(len(logits) > 1)
    allowed = data.draw(st.sets(st.integers(0, len(logits) - 1), min_size=1, max_size=5))
    banned = [i for i in range(len(logits)) if i not in allowed]
    before = logits.clone()
    sampler = Sampler(Sampling(**{"seed": 0, **options}))
    assert {sampler.pick(logits, banned) for _ in range(5)} <= allowed
    assert torch.equal(logits, before), "the caller's logits were changed"


@pytest.mark.parametrize("temperature", [0, 0.01, 1.0, 100.0])
@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 9, "top_p": 1.0}, {"min_p": 1.0}])
def test_the_only_token_that_is_not_banned_is_picked(temperature: float, options: dict[str, Any]) -> None:
    logits = torch.tensor([50.0, 40, -60, 40])
    sampler = Sampler(Sampling(temperature=temperature, seed=0, **options))
    assert {sampler.pick(logits, [0, 1, 3]) for _ in range(20)} == {2}


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-40, 1e-300, 5e-324])
def test_a_tiny_temperature_is_as_good_as_greedy(temperature: float) -> None:
    sampler = Sampler(Sampling(temperature=temperature, seed=0))
    assert {sampler.pick(torch.tensor([1.0, 9.0, -9.0, 8.0])) for _ in range(20)} == {1}


def draws(sampler: Sampler, count: int = 40) -> list[int]:
    return [sampler.pick(torch.zeros(1000)) for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_the_same_seed_gives_the_same_sequence(seed: int) -> None:
    s = Sampling(temperature=1, seed=seed)
    assert draws(Sampler(s)) == draws(Sampler(s))


def test_different_seeds_and_no_seed_give_different_sequences() -> None:
    assert len({tuple(draws(Sampler(Sampling(temperature=1, seed=seed)))) for seed in (0, 1, None, None)}) == 4


def test_samplers_do_not_influence_each_other() -> None:
    alone = [draws(Sampler(Sampling(temperature=1, seed=seed))) for seed in (1, 2)]
    pair = [Sampler(Sampling(temperature=1, seed=seed)) for seed in (1, 2)]
    together = [[s.pick(torch.zeros(1000)) for s in pair] for _ in range(40)]
    assert [list(column) for column in zip(*together, strict=True)] == alone


@pytest.mark.parametrize("seed", [3, None])
def test_torchs_global_generator_is_neither_used_nor_moved(seed: int | None) -> None:
    before = torch.get_rng_state()
    draws(Sampler(Sampling(temperature=1, seed=seed)))
    assert torch.equal(torch.get_rng_state(), before)
    first = draws(Sampler(Sampling(temperature=1, seed=3)))
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert draws(Sampler(Sampling(temperature=1, seed=3))) == first


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.6, "top_p": 0.95},
        {"temperature": 2.0, "top_k": 6, "top_p": 1.0},
        {"temperature": 1.5, "min_p": 0.1},
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_probable(options: dict[str, Any]) -> None:
    logits = torch.tensor([1.0, -1, 0.5, 2, 1.5, 0, -2, 1, 1, -0.5])
    s = Sampling(seed=20260109, **options)
    expected, sampler, count = from_transformers(logits, s), Sampler(s), 2500
    drawn = torch.tensor([sampler.pick(logits) for _ in range(count)]).bincount(minlength=len(logits)).tolist()
    assert all(drawn[i] == 0 for i in range(len(logits)) if i not in expected)
    statistic = sum((drawn[i] - count * p) ** 2 / (count * p) for i, p in expected.items())
    free = len(expected) - 1
    assert statistic < free * (1 - 2 / (9 * free) + 3.09 * math.sqrt(2 / (9 * free))) ** 3  # 99.9 % (Wilson-Hilferty)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", v) for v in (-0.1, -1, math.inf, -math.inf, math.nan)),
        *(("top_p", v) for v in (0, 0.0, -0.5, 1.001, 2, math.inf, math.nan)),
        *(("top_k", v) for v in (0, -1)),
        *(("min_p", v) for v in (-0.01, 1.01, math.nan)),
        *(("seed", v) for v in (-1, 2**63)),
    ],
)
def test_a_value_out_of_range_is_an_input_error_that_names_it(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"{field}.*not {re.escape(str(value))}$"):
        Sampling(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("temperature", v) for v in ("0.6", None, True)),
        *(("top_p", v) for v in ("0.9", None)),
        *(("top_k", v) for v in (2.5, "3", True)),
        *(("min_p", v) for v in ("0", None)),
        *(("seed", v) for v in (1.5, "0", True)),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises((TypeError, InputError), match=rf"{field}.*{re.escape(str(value))}"):
        Sampling(**{field: value})


@pytest.mark.parametrize(
    "field_value", [("temperature", 0), ("top_p", 1), ("top_k", 1), ("min_p", 0), ("min_p", 1), ("seed", 0)]
)
def test_the_ends_of_the_ranges_are_valid(field_value: tuple[str, Any]) -> None:
    field, value = field_value
    assert getattr(Sampling(**{field: value}), field) == value
