"""Policies against their formulas, written naively in numpy from unmodified transformers' attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import minseek
from minseek.cache import CacheShape, Candidates, Rotary, Slot, SlotPool, SlotShape
from minseek.cache.policies import (
    ALIASES,
    H2O,
    POLICIES,
    RKV,
    TOVA,
    ExpectedAttention,
    KeyDiff,
    NovelValues,
    ObservedAttention,
    Policy,
    Random,
    RankSum,
    SnapKV,
    StreamingLLM,
    make_policy,
    register,
)
from minseek.errors import InputError
from minseek.models.forward.chunk import SequenceChunk
from tests.helpers.prompts import tokens
from tests.helpers.slots import observer_of, token_index_of
from tests.helpers.tiny_models import make_reference, save

Array = NDArray[np.float64]
LAYERS, HEADS, GROUP, DIM = 3, 2, 3, 16
CAP, BLOCK = 60, 20
N = CAP + BLOCK


@dataclass(frozen=True)
class Seen:
    """What transformers computes for N tokens: everything that a policy may go by, in float64."""

    attention: Array  # [L, H * G, N, N]
    keys: Array  # [L, H, N, D], rotated
    raw_keys: Array  # the same without positions
    values: Array  # [L, H, N, D]
    queries: Array  # [L, H * G, N, D], without positions

    @property
    def grouped(self) -> Array:
        """Attention [L, H, N, N], mean over a group's query heads."""
        return self.attention.reshape(LAYERS, HEADS, GROUP, N, N).mean(2)


def watch(reference: Any, ids: list[int]) -> Seen:
    reference.set_attn_implementation("eager")
    caught: dict[tuple[str, int], Tensor] = {}
    hooks = []
    for index, layer in enumerate(reference.model.layers):
        for name in ("q", "k"):
            module = getattr(layer.self_attn, f"{name}_norm", None) or getattr(layer.self_attn, f"{name}_proj")

            def catch(_module: Any, _given: Any, out: Tensor, at: tuple[str, int] = (name, index)) -> None:
                caught[at] = out.view(N, -1, DIM).transpose(0, 1)

            hooks.append(module.register_forward_hook(catch))
    out = reference(torch.tensor([ids]), output_attentions=True, use_cache=True)
    for hook in hooks:
        hook.remove()

    def array(tensors: list[Tensor]) -> Array:
        given: Array = torch.stack(tensors).double().numpy()
        return given

    return Seen(
        array([a[0] for a in out.attentions]),
        array([layer.keys[0] for layer in out.past_key_values.layers]),
        array([caught["k", index] for index in range(LAYERS)]),
        array([layer.values[0] for layer in out.past_key_values.layers]),
        array([caught["q", index] for index in range(LAYERS)]),
    )


class Case:
    """A model, what transformers says of N tokens, and slots that our forward pass has filled with them."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.model = minseek.load(str(save(folder, variant)), device="cpu", dtype="float32")
        self.ids = tokens(N, 11)
        self.seen = watch(make_reference(variant), self.ids)

    def slot(self, policy: Policy, chunks: tuple[int, ...] = (50, 1, 29)) -> Slot:
        heads, hidden = HEADS * GROUP if policy.needs_queries else 0, self.model.hidden_size
        shape = SlotShape(self.model.cache_shape, CAP, BLOCK, True, heads, hidden if policy.needs_surprise else 0)
        slot = self.model.make_slot_pool(shape, 1, window=policy.window).slots[0]
        at = 0
        for count in chunks:
            self.model.forward_batch([SequenceChunk(self.ids[at : at + count], slot)])
            at += count
        return slot

    def scores(self, policy: Policy) -> Array:
        return np.asarray(policy.score(Candidates(self.slot(policy))).double().numpy())

    def chosen(self, policy: Policy) -> Array:
        return np.asarray(policy.choose(Candidates(self.slot(policy)), CAP).numpy())


@pytest.fixture(scope="module", params=["llama", "qwen3-yarn"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp("policies"))


def ranks(row: Array) -> Array:
    """From 0 to 1."""
    return np.array([sum(other < score for other in row) / (len(row) - 1) for score in row])


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def best(scores: Array, sinks: int, recent: int, cap: int = CAP) -> Array:
    """Of each head: the first, the last, and the highest of the others, ascending."""
    n = scores.shape[-1]
    rows = []
    for row in scores.reshape(-1, n):
        others = sorted(range(sinks, n - recent), key=lambda j: -row[j])[: cap - sinks - recent]
        rows.append([*range(sinks), *sorted(others), *range(n - recent, n)])
    return np.array(rows).reshape(*scores.shape[:-1], cap)


# What holds of every policy


def synthetic(count: int = 2, seed: int = 0, device: str = "cpu") -> list[Slot]:
    """Slots full of random pairs, as if read by a model of 2 layers with 2 heads of 8 dimensions."""
    shape = SlotShape(CacheShape(2, 2, 8, torch.float32), CAP, BLOCK, num_heads=4, hidden_size=5)
    pool = SlotPool(shape, Rotary(torch.tensor([1.0, 0.1, 0.01, 0.001], device=device)), count, device=device)
    for index, slot in enumerate(pool.slots):
        more(slot, N, torch.Generator().manual_seed(seed + index))
    return pool.slots


def more(slot: Slot, count: int, chance: torch.Generator) -> None:
    device = slot.keys[0].device
    for layer in range(2):
        keys, values = torch.randn(2, 2, count, 8, generator=chance).to(device)
        observer_of(slot).record_queries(layer, torch.randn(4, count, 8, generator=chance).to(device)[:, -BLOCK:])
        slot.append(layer, keys, values)
        observer_of(slot).window = BLOCK // 2
        observer_of(slot).observe(layer, torch.rand(2, 2, count, slot.length + count, generator=chance).to(device))
    slot.advance(count)
    observer_of(slot).record_surprise(torch.randn(count, generator=chance).to(device), torch.zeros(5, device=device))


def small(kind: type[Policy]) -> Policy:
    return kind(sinks=3, recent=7)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_a_choice_is_ascending_complete_and_keeps_what_is_protected(kind: type[Policy], device: str) -> None:
    policy, chance = small(kind), torch.Generator().manual_seed(5)
    slot = synthetic(device=device)[1]
    for _ in range(4):
        for cap in (CAP, 11, N):
            pairs = Candidates(slot)
            score = policy.score(pairs)
            assert score.shape == (2, 2, N)
            assert score.isfinite().all()
            chosen = policy.choose(pairs, cap).cpu()
            assert chosen.shape == (2, 2, cap)
            assert chosen.dtype == torch.int64
            assert (chosen.diff() > 0).all()  # ascending, so that none comes twice
            assert chosen.min() >= 0
            assert chosen.max() < N
            assert (chosen[..., :3] == torch.arange(3)).all()
            assert (chosen[..., -7:] == torch.arange(N - 7, N)).all()
            assert torch.equal(policy.choose(Candidates(slot), cap).cpu(), chosen)
        slot.retain([policy.choose(Candidates(slot), CAP)])
        token_index = slot.layer_groups[0].token_index.cpu()
        assert (token_index[:, :, :3] == torch.arange(3)).all()
        assert (token_index[:, :, CAP - 7 : CAP] == torch.arange(slot.num_tokens - 7, slot.num_tokens)).all()
        more(slot, BLOCK, chance)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_a_choice_depends_on_the_slot_alone(kind: type[Policy]) -> None:
    """Not on the place in the pool, the pool's size, what stands in the others, or what the slot held before."""
    policy = small(kind)
    alone = policy.choose(Candidates(synthetic(1, seed=9)[0]), CAP)
    assert torch.equal(policy.choose(Candidates(synthetic(4, seed=6)[3]), CAP), alone)
    used = synthetic(3, seed=70)[1]
    used.retain([policy.choose(Candidates(used), CAP)])
    used.clear()
    more(used, N, torch.Generator().manual_seed(9))
    assert torch.equal(policy.choose(Candidates(used), CAP), alone)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_an_old_and_a_new_choice_of_a_deterministic_policy_agree(kind: type[Policy]) -> None:
    """A policy keeps nothing to itself: a fresh one, and one that has chosen elsewhere before, choose the same."""
    policy = small(kind)
    for seed in (1, 2):
        policy.choose(Candidates(synthetic(1, seed=seed)[0]), CAP)
    wanted = small(kind).choose(Candidates(synthetic(1, seed=3)[0]), CAP)
    assert torch.equal(policy.choose(Candidates(synthetic(1, seed=3)[0]), CAP), wanted)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [("sinks", -1, InputError), ("recent", -5, InputError), ("sinks", 1.5, TypeError), ("recent", True, TypeError)],
)
@pytest.mark.parametrize("kind", POLICIES.values())
def test_protected_pairs_are_counted_in_whole_numbers(
    kind: type[Policy], field: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=rf"^{field} must be .*, not {value}$"):
        kind(**{field: value})


@pytest.mark.parametrize("kind", POLICIES.values())
def test_nothing_need_be_protected(kind: type[Policy]) -> None:
    chosen = kind(sinks=0, recent=0).choose(Candidates(synthetic()[0]), 5)
    assert chosen.shape == (2, 2, 5)


# Formulas


def test_observed_attention_is_the_mean_over_the_queries_that_could_attend(case: Case) -> None:
    wanted = np.zeros((LAYERS, HEADS, N))
    for j in range(N):
        wanted[..., j] = case.seen.grouped[:, :, j:, j].sum(-1) / (N - j)
    np.testing.assert_allclose(case.scores(ObservedAttention()), wanted, atol=2e-5)
    policy = ObservedAttention(sinks=2, recent=5)
    assert (case.chosen(policy) == best(wanted, 2, 5)).mean() > 0.98  # but for ties in float32


def test_heavy_hitters_keep_the_sum_and_half_of_the_cap_for_recent_pairs(case: Case) -> None:
    """After the first eviction: the share is that of the survivors, of whom there are cap."""
    policy = H2O(sinks=2, recent=0)
    slot = case.slot(policy)
    slot.retain([torch.arange(CAP).expand(LAYERS, HEADS, -1)])
    model_tokens = tokens(BLOCK, 12)
    case.model.forward_batch([SequenceChunk(model_tokens, slot)])
    attn_sum = torch.stack(observer_of(slot).attn_sum).double().numpy()
    chosen = policy.choose(Candidates(slot), CAP).numpy()
    assert (chosen == best(attn_sum, 2, CAP // 2)).all()


def test_heavy_hitters_share_the_cap_at_the_first_eviction(case: Case) -> None:
    attn_sum = case.seen.grouped.sum(2)
    policy = H2O(sinks=2, recent=0)
    assert (case.chosen(policy) == best(attn_sum, 2, CAP // 2)).mean() > 0.98


def test_heavy_hitters_score_older_pairs_by_attention(case: Case) -> None:
    wanted, got = case.seen.grouped.sum(2), case.scores(H2O(recent_share=0.25))
    older = N - CAP // 4  # the recent share is one of the cap
    np.testing.assert_allclose(got[..., :older], wanted[..., :older], atol=2e-4)
    assert got[..., older:].min() > got[..., :older].max()


@pytest.mark.parametrize(("queries", "kernel"), [(10, 5), (20, 1), (1, 3), (32, 7)])
def test_window_pools_the_attention_of_the_last_queries(case: Case, queries: int, kernel: int) -> None:
    summed = case.seen.grouped[:, :, N - queries :].sum(2)
    wanted = np.zeros_like(summed)
    for j in range(N):
        near = range(max(0, j - kernel // 2), min(N, j + kernel // 2 + 1))
        wanted[..., j] = sum(summed[..., i] for i in near) / len(near)
    np.testing.assert_allclose(case.scores(SnapKV(window_size=queries, kernel_size=kernel)), wanted, atol=1e-4)


def test_last_query_is_one_set_for_each_layer(case: Case) -> None:
    wanted = case.seen.attention[:, :, -1].mean(1)  # over all heads
    scores = case.scores(TOVA())
    for head in range(HEADS):
        np.testing.assert_allclose(scores[:, head], wanted, atol=1e-5)
    chosen = case.chosen(TOVA(sinks=0, recent=1))
    assert (chosen[:, 0] == chosen[:, 1]).all()
    assert (chosen[:, 0] == best(wanted, 0, 1)).mean() > 0.98


def test_sink_and_recent_keep_the_first_and_the_last(case: Case) -> None:
    chosen = case.chosen(StreamingLLM(sinks=5, recent=3))
    assert (chosen == np.array([*range(5), *range(N - CAP + 5, N)])).all()


@pytest.mark.parametrize("rotated", [True, False])
def test_key_difference_is_the_distance_from_the_mean_direction(case: Case, rotated: bool) -> None:
    keys = case.seen.keys if rotated else case.seen.raw_keys
    wanted = np.zeros((LAYERS, HEADS, N))
    for layer in range(LAYERS):
        for head in range(HEADS):
            rows = [key / math.sqrt(key @ key) for key in keys[layer, head]]
            wanted[layer, head] = [-cosine(key, sum(rows)) for key in keys[layer, head]]
    policy = KeyDiff(rotated=rotated)
    np.testing.assert_allclose(case.scores(policy), wanted, atol=1e-4)
    assert (case.chosen(policy) == best(wanted, 4, 32)).mean() > 0.98


def rotation(inv_freq: Array, scaling: float, position: int) -> Array:
    """[D, D]: what a query is multiplied by there."""
    half = len(inv_freq)
    matrix = np.zeros((2 * half, 2 * half))
    for i, frequency in enumerate(inv_freq):
        c, s = scaling * math.cos(position * frequency), scaling * math.sin(position * frequency)
        matrix[i, i], matrix[i, i + half] = c, -s
        matrix[i + half, i], matrix[i + half, i + half] = s, c
    return matrix


def mean_rotation(rotary: Rotary, start: int, ahead: int) -> Array:
    inv_freq = rotary.inv_freq.double().numpy()
    return np.asarray(sum(rotation(inv_freq, rotary.scaling, start + i) for i in range(ahead)) / ahead)


def test_expected_attention_is_the_gaussian_formula(case: Case) -> None:
    policy, seen = ExpectedAttention(horizon=40), case.seen
    turn = mean_rotation(case.model.weights.rotary, N, 40)
    wanted = np.zeros((LAYERS, HEADS, N))
    for layer in range(LAYERS):
        for head in range(HEADS):
            weights = np.zeros(N)
            for g in range(GROUP):
                queries = seen.queries[layer, head * GROUP + g, N - BLOCK :]
                mean, covariance = turn @ queries.mean(0), turn @ np.cov(queries.T, bias=True) @ turn.T
                keys = seen.keys[layer, head]
                expected = [np.exp(k @ mean / math.sqrt(DIM) + k @ covariance @ k / (2 * DIM)) for k in keys]
                weights += np.array(expected) / sum(expected) / GROUP
            wanted[layer, head] = (weights + 0.02) * np.sqrt((seen.values[layer, head] ** 2).sum(-1))
    np.testing.assert_allclose(case.scores(policy), wanted, rtol=2e-3, atol=1e-5)


def test_expected_attention_is_what_gaussian_queries_pay_on_average() -> None:
    """Monte Carlo: queries drawn with the mean and covariance of those seen, turned by the mean rotation."""
    slot, policy = synthetic(1, seed=20)[0], ExpectedAttention(horizon=16, epsilon=0.0)
    pairs = Candidates(slot)
    assert pairs.queries is not None
    got = policy.score(pairs).double().numpy() / pairs.values.double().norm(dim=-1).numpy()
    turn, chance = mean_rotation(slot.rotary, N, 16), np.random.default_rng(1)
    for layer, head in ((0, 0), (1, 1)):
        total = np.zeros(N)
        for g in range(2):
            queries = pairs.queries[layer, 2 * head + g].double().numpy()
            assert len(queries) == BLOCK
            drawn = chance.multivariate_normal(queries.mean(0), np.cov(queries.T, bias=True), 200_000) @ turn.T
            paid = np.exp(drawn @ pairs.keys[layer, head].double().numpy().T / math.sqrt(8)).mean(0)
            total += paid / paid.sum() / 2
        np.testing.assert_allclose(got[layer, head], total, rtol=0.05)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_redundancy_aware_weighs_attention_against_likeness_to_others(case: Case, weight: float) -> None:
    policy = RKV(weight=weight, window_size=8)
    summed = case.seen.grouped[:, :, N - 8 :].sum(2)
    wanted = np.zeros((LAYERS, HEADS, N))
    for layer in range(LAYERS):
        for head in range(HEADS):
            keys = case.seen.keys[layer, head]
            cosine_to_mean = np.zeros(N)
            for i in range(N):
                for j in range(N):
                    if i != j:
                        cosine_to_mean[i] += cosine(keys[i], keys[j]) / (N - 1)
            redundancy = np.exp(cosine_to_mean) / np.exp(cosine_to_mean).sum()
            attention = summed[layer, head] / summed[layer, head].sum()
            wanted[layer, head] = weight * attention - (1 - weight) * redundancy
    np.testing.assert_allclose(case.scores(policy), wanted, atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_rank_sum_adds_the_ranks_of_attention_and_of_key_difference(case: Case, weight: float) -> None:
    observed, difference = (case.scores(policy) for policy in (ObservedAttention(), KeyDiff(rotated=False)))
    wanted = np.zeros_like(observed)
    for at in np.ndindex(LAYERS, HEADS):
        wanted[at] = ranks(observed[at]) + weight * ranks(difference[at])
    np.testing.assert_allclose(case.scores(RankSum(weight=weight)), wanted, atol=2 / N)  # but for ties in float32
    close = np.abs(case.scores(RankSum(weight=weight)) - wanted) < 1e-5
    assert close.mean() > 0.97


# The control


def survivors(policy: Random, evictions: int, cap: int = 30, block: int = 20) -> Tensor:
    """[L, H, seen]: which tokens are there after so many evictions; no forward pass is needed."""
    shape = SlotShape(CacheShape(2, 3, 2, torch.float32), cap, block)
    slot = SlotPool(shape, Rotary(torch.ones(1)), 1).slots[0]
    for _ in range(evictions):
        slot.advance(slot.capacity - slot.length)
        slot.retain([policy.choose(Candidates(slot), cap)])
    there = torch.zeros(2, 3, slot.num_tokens)
    token_index = torch.stack([token_index_of(slot, layer) for layer in range(2)])
    return there.scatter_(2, token_index.long(), 1.0)


@pytest.mark.parametrize("evictions", [1, 3])
def test_each_unprotected_pair_survives_as_often_as_any_other(evictions: int) -> None:
    seeds, sinks, recent = 400, 2, 4
    counted = sum(
        survivors(Random(sinks=sinks, recent=recent, seed=seed), evictions).sum((0, 1)) for seed in range(seeds)
    )
    assert isinstance(counted, Tensor)
    draws, seen = seeds * 6, 30 + 20 * evictions
    share = (30 - sinks - recent) / (seen - sinks - recent)
    assert (counted[:sinks] == draws).all()
    assert (counted[-recent:] == draws).all()
    error = (counted[sinks:-recent] / draws - share).abs().max()
    assert error < 5 * math.sqrt(share * (1 - share) / draws)
    # Heads and layers draw apart.
    one = survivors(Random(sinks=sinks, recent=recent), 1).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in one}) == 6


def test_the_same_seed_makes_the_same_choice_and_another_one_another() -> None:
    first, again, other = (survivors(Random(sinks=2, recent=4, seed=seed), 3) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", [2**62])
def test_a_seed_that_cannot_be_used_is_refused_at_once(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed .*{seed}"):
        Random(seed=seed)


# Parameters


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SnapKV, {"kernel_size": 4}),  # fails during the run: "shape … is invalid for input of size …"
        (SnapKV, {"kernel_size": 0}),
        (SnapKV, {"window_size": 0}),
        (H2O, {"recent_share": 2.0}),
        (H2O, {"recent_share": -1.0}),
        (ExpectedAttention, {"horizon": 0}),  # every score is NaN
        (RKV, {"window_size": -3}),
        (NovelValues, {"span_limit": -1.0}),
        (NovelValues, {"induction_cap_factor": 0.5}),
        (NovelValues, {"induction_cap_factor": float("nan")}),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused_at_once(kind: type[Policy], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong)))):
        kind(**wrong)


# Policies of one's own


@pytest.fixture
def registry() -> Iterator[dict[str, type[Policy]]]:
    before = dict(POLICIES)
    yield POLICIES
    POLICIES.clear()
    POLICIES.update(before)


@dataclass(frozen=True)
class Loudest(Policy):
    """Keeps the largest values, and notes how often it was asked."""

    name: ClassVar[str] = "loudest"
    asked: ClassVar[list[int]] = []

    def score(self, pairs: Candidates) -> Tensor:
        self.asked.append(pairs.num_pairs)
        return pairs.values.float().pow(2).sum(-1)


def test_a_policy_of_ones_own_is_known_by_name(tiny: minseek.Model, registry: dict[str, type[Policy]]) -> None:
    assert register(Loudest) is Loudest
    assert register(Loudest) is Loudest  # twice does no harm
    assert make_policy("loudest") == Loudest()
    Loudest.asked.clear()
    plan = minseek.plan(tiny, cap=40, block=16, policy="loudest", sequences=2)
    (out,) = minseek.generate(tiny, [tokens(120, 1)], plan=plan, max_new_tokens=4, ignore_eos=True)
    assert Loudest.asked == [56] * 5
    assert out.stats.evictions == 5
    by_name = minseek.generate(tiny, [tokens(30, 1)], policy="loudest", max_new_tokens=4)  # all fits
    assert by_name == minseek.generate(tiny, [tokens(30, 1)], policy=None, max_new_tokens=4)
    assert len(Loudest.asked) == 5


def test_a_policy_with_notes_reads_what_it_wrote(tiny: minseek.Model) -> None:
    held: list[Tensor] = []

    @dataclass(frozen=True)
    class Noting(Policy):
        name: ClassVar[str] = "noting"

        def score(self, pairs: Candidates) -> Tensor:
            held.append(pairs.policy_scores.clone())
            first = pairs.num_pairs - pairs.num_new
            assert not pairs.policy_scores[..., first:].any()  # 0 for new pairs
            pairs.policy_scores[..., first:] = 1 + pairs.token_index[..., first:]
            assert torch.equal(pairs.policy_scores, 1.0 + pairs.token_index)  # scores move with their pairs
            return pairs.token_index.float() % 7

    plan = minseek.plan(tiny, cap=40, block=16, policy=Noting(sinks=1, recent=1), sequences=1)
    minseek.generate(tiny, [tokens(120, 1), tokens(90, 2)], plan=plan, max_new_tokens=4, ignore_eos=True)
    assert len(held) == 5 + 3


def test_a_name_that_is_taken_or_missing_is_refused(registry: dict[str, type[Policy]]) -> None:
    clash = type("Clash", (Loudest,), {"name": "snapkv"})
    with pytest.raises(InputError, match=r"^the name 'snapkv' belongs to the policy SnapKV: take another$"):
        register(clash)
    nameless = type("Nameless", (Loudest,), {"name": ""})
    with pytest.raises(InputError, match=r"^the policy Nameless has no name: give it a class attribute 'name'$"):
        register(nameless)
    assert POLICIES["snapkv"] is SnapKV


def test_a_policy_cannot_be_called_default(registry: dict[str, type[Policy]]) -> None:
    with pytest.raises(InputError, match="'default'"):
        register(type("Default", (Loudest,), {"name": "default"}))


def test_an_unknown_policy_is_refused_with_those_known(tiny: minseek.Model) -> None:
    with pytest.raises(InputError, match=r"^unknown policy 'newest': choose observed-attention, .*, novel-values$"):
        minseek.generate(tiny, ["a"], policy="newest")
    with pytest.raises(TypeError, match="a policy is a name, a Policy or None, not <class"):
        minseek.generate(tiny, ["a"], policy=SnapKV)  # type: ignore[arg-type]


def test_former_names_are_accepted_and_stay_taken(registry: dict[str, type[Policy]]) -> None:
    kinds = (H2O, SnapKV, TOVA, StreamingLLM, KeyDiff, RKV)
    former = ("heavy-hitters", "window", "last-query", "sink-recent", "key-difference", "redundancy-aware")
    assert tuple(ALIASES) == former
    assert [make_policy(name) for name in former] == [kind() for kind in kinds]
    assert not set(former) & set(POLICIES)
    for name in former:
        with pytest.raises(InputError, match=f"^the name '{name}' belongs to the policy"):
            register(type("Clash", (Loudest,), {"name": name}))


def test_policies_are_values() -> None:
    assert SnapKV(window_size=8) == replace(SnapKV(), window_size=8) != SnapKV()
    assert all(POLICIES[name].name == name and POLICIES[name].source for name in POLICIES)


def filled(policy: Policy, values: Tensor, cap: int, block: int) -> Slot:
    """A slot whose first `cap + block` tokens have these values [L, H, n, D] and were all looked at alike."""
    layers, heads, n, dim = values.shape
    shape = SlotShape(CacheShape(layers, heads, dim, torch.float32), cap, block, hidden_size=1)
    pool = SlotPool(shape, Rotary(torch.ones(dim // 2)), 1)
    (slot,) = pool.slots
    (group,) = slot.layer_groups
    group.values[:], group.keys[:] = values, torch.randn_like(values)
    group.positions[:] = torch.arange(n, dtype=torch.int32)
    slot.advance(n)
    group.attn_sum[:] = n - torch.arange(n, dtype=torch.float32)
    return slot


def test_novel_values_keep_an_odd_stretch_in_every_head() -> None:
    torch.manual_seed(0)
    usual = torch.randn(12, 2, 1, 8).expand(-1, -1, 160, -1) + 0.5 * torch.randn(12, 2, 160, 8)
    odd = usual.clone()
    odd[:2, :, 60:72] = -usual[:2, :, 60:72]  # in the first sixth of the layers
    policy = NovelValues(recent_share=0.2)
    for values, kept in ((odd, True), (usual, False)):
        chosen = policy.choose(Candidates(filled(policy, values, 80, 80)), 80)
        stays = torch.zeros(12, 2, 160).scatter_(-1, chosen, 1.0)[:, :, 62:70]
        assert bool(stays.all()) == kept


def test_surprising_words_stay_as_well() -> None:
    torch.manual_seed(0)
    values = torch.randn(12, 2, 1, 8).expand(-1, -1, 160, -1) + 0.5 * torch.randn(12, 2, 160, 8)
    slot = filled(NovelValues(), values, 80, 80)
    slot.memory.surprise[0] = torch.randn(160)
    slot.memory.surprise[0, 60:72] += 6
    for surprise, kept in ((2.0, True), (0.0, False)):
        slot.policy_state.clear()
        chosen = NovelValues(recent_share=0.2, surprise=surprise).choose(Candidates(slot), 80)
        stays = torch.zeros(12, 2, 160).scatter_(-1, chosen, 1.0)[:, :, 62:70]
        assert bool(stays.all()) == kept


@pytest.mark.parametrize(
    ("limits", "most"), [({}, 181), ({"span_limit": 2.0}, 45), ({"share": 0.1}, 51), ({"span_limit": math.inf}, 200)]
)
def test_novel_stretches_take_no_more_than_their_limits(limits: dict[str, float], most: int) -> None:
    """8 sqrt(512), 2 sqrt(512), a tenth of 512; and all that are novel, which are fewer than 0.6 of 512."""
    torch.manual_seed(0)
    policy = NovelValues(recent_share=0, neighbors=1, dilation=1, threshold_sd=0.5, surprise=1e6, **limits)
    slot = filled(policy, torch.randn(2, 2, 640, 8), 512, 128)
    slot.memory.surprise[0] = 0
    slot.memory.surprise[0, torch.randperm(640)[:200]] = 1
    scores = policy.score(Candidates(slot))
    assert (scores >= 2 + policy.weight).sum(-1).eq(most).all()


def test_stretches_take_of_each_layer_what_its_cap_allows() -> None:
    torch.manual_seed(0)
    policy = NovelValues(recent_share=0, neighbors=1, dilation=1, threshold_sd=0.5, surprise=1e6, span_limit=2.0)
    shape = SlotShape(CacheShape(3, 2, 8, torch.float32), 512, 128, hidden_size=1, caps=(384, 768, 384))
    (slot,) = SlotPool(shape, Rotary(torch.ones(4)), 1).slots
    for layer in range(3):
        slot.append(layer, torch.randn(2, 640, 8), torch.randn(2, 640, 8))
    slot.advance(640)
    observer_of(slot).record_surprise((torch.arange(640) % 3 == 0).float(), torch.zeros(1))
    for group, most in zip(slot.layer_groups, (33, 67), strict=True):  # 2 / sqrt(512) of the cap
        scores = policy.score(Candidates(slot, group))
        assert (scores >= 2 + policy.weight).sum(-1).eq(most).all()


def test_novelty_is_the_same_in_all_layers_whatever_they_keep() -> None:
    """One number for each token: a group that evicts nothing has it beside one that evicts, as a uniform slot does."""
    torch.manual_seed(2)
    values, keys, surprise = torch.randn(12, 2, 120, 8), torch.randn(12, 2, 120, 8), torch.randn(120)
    policy = NovelValues(recent=10, neighbors=5, dilation=3)
    slots = []
    for caps in ((), (32,) * 9 + (120, 32, 32)):
        shape = SlotShape(CacheShape(12, 2, 8, torch.float32), 40, 20, hidden_size=1, caps=caps)
        slots += SlotPool(shape, Rotary(torch.ones(4)), 1).slots
    for start, end in ((0, 60), (60, 80), (80, 100), (100, 120)):
        held: list[dict[int, float]] = []
        for slot in slots:
            for layer in range(12):
                slot.append(layer, keys[layer, :, start:end], values[layer, :, start:end])
            slot.advance(end - start)
            observer_of(slot).record_surprise(surprise[start:end], torch.zeros(1))
            policy.evict(slot)
            for group in slot.layer_groups:
                token_index, notes = (
                    t[0, 1, : group.length].tolist() for t in (group.token_index, group.policy_scores)
                )
                held.append(dict(zip(token_index, notes, strict=True)))
        uniform, small, large = held
        assert (len(uniform), len(small), len(large)) == (40, 32, end)  # the large one has had no reason to evict
        for other in (uniform, small):
            assert all(large[arrival] == pytest.approx(note, abs=1e-5) for arrival, note in other.items())


def spread_out(row: Array, reach: int, statistic: Any) -> Array:
    """Of each place and its neighbours up to `reach` away, as far as there are any."""
    return np.array([statistic(row[max(0, i - reach) : i + reach + 1]) for i in range(len(row))])


@pytest.mark.parametrize("recent", [32, 3])
def test_novelty_by_hand(recent: int) -> None:
    """Over three evictions, against all tokens of the sequence in float64; blocks leave no edges."""
    torch.manual_seed(1)
    policy = NovelValues(neighbors=5, dilation=3, layer_fraction=0.5, surprise=1.5, recent=recent)
    values, surprise = torch.randn(4, 3, 100, 8), torch.randn(100)
    slot = filled(policy, values[:, :, :60], 40, 20)
    pool, cosines, notes = slot.memory, np.empty(0), np.empty(0)
    unit = values[:2].numpy().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    settled, edge = 0, 3  # of the last tokens not all neighbours have come
    for seen in (60, 80, 100):
        if seen > 60:
            slot.retain([torch.arange(20, 60).expand(4, 3, -1)])
            slot.layer_groups[0].values[:, :, 40:] = values[:, :, seen - 20 : seen]
            slot.advance(20)
        new = 60 if seen == 60 else 20
        pool.surprise[0, :new] = surprise[seen - new : seen]
        candidates = Candidates(slot)
        policy.score(candidates)
        first = candidates.policy_scores.clone()
        policy.score(candidates)  # asked twice, it says the same
        assert torch.equal(first, candidates.policy_scores)

        mean = unit[:, :, :seen].sum(2)
        mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
        fresh = -(unit[:, :, seen - new : seen] * mean[:, :, None]).sum(-1).mean((0, 1))
        cosines = np.concatenate((cosines, fresh))
        signals = [spread_out(x, 2, np.mean) for x in (cosines, surprise[:seen].numpy().astype(np.float64))]
        end = seen - edge
        known = [x[:end] for x in signals]
        z = [(x - k.mean()) / k.std() for x, k in zip(signals, known, strict=True)]
        correlation = np.corrcoef(*known)[0, 1]
        novelty = (z[0] + 1.5 * z[1]) / math.sqrt(1 + 1.5**2 + 2 * 1.5 * correlation)
        again = spread_out(novelty, 1, np.max)
        notes = np.concatenate((notes[:settled], again[settled:]))
        settled = end
        np.testing.assert_allclose(candidates.policy_scores[3, 2], notes[seen - 60 : seen], atol=1e-4)
