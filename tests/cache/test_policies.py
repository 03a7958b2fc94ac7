"""Policies compared with their formulas in numpy, computed from the attention of unmodified transformers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import minseek
from minseek.cache import CacheShape, Candidates, Rotary, Slot, SlotPool, SlotShape
from minseek.cache.policies import (
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
    """Everything that transformers computes for N tokens and a policy may read, in float64."""

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
    """A model, the values that transformers computes for N tokens, and slots filled with them by our forward pass."""

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
    """Ranks from 0 to 1."""
    return np.array([sum(other < score for other in row) / (len(row) - 1) for score in row])


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def best(scores: Array, sinks: int, recent: int, cap: int = CAP) -> Array:
    """For each head the first pairs, the last, and the highest of the others, ascending."""
    n = scores.shape[-1]
    rows = []
    for row in scores.reshape(-1, n):
        others = sorted(range(sinks, n - recent), key=lambda j: -row[j])[: cap - sinks - recent]
        rows.append([*range(sinks), *sorted(others), *range(n - recent, n)])
    return np.array(rows).reshape(*scores.shape[:-1], cap)


# Properties of every policy


def synthetic(count: int = 2, seed: int = 0, device: str = "cpu") -> list[Slot]:
    """Slots full of random pairs, as of a model of 2 layers with 2 heads of 8 dimensions."""
    shape = SlotShape(CacheShape(2, 2, 8, torch.float32), CAP, BLOCK, num_heads=4, hidden_size=5)
    pool = SlotPool(shape, Rotary(torch.tensor([1.0, 0.1, 0.01, 0.001], device=device)), count, device=device)
    for index, slot in enumerate(pool.slots):
        more(slot, N, torch.Generator().manual_seed(seed + index))
    return pool.slots


def more(slot: Slot, count: int, rng: torch.Generator) -> None:
    device = slot.keys[0].device
    for layer in range(2):
        keys, values = torch.randn(2, 2, count, 8, generator=rng).to(device)
        observer_of(slot).record_queries(layer, torch.randn(4, count, 8, generator=rng).to(device)[:, -BLOCK:])
        slot.append(layer, keys, values)
        observer_of(slot).window = BLOCK // 2
        observer_of(slot).observe(layer, torch.rand(2, 2, count, slot.length + count, generator=rng).to(device))
    slot.advance(count)
    observer_of(slot).record_surprise(torch.randn(count, generator=rng).to(device), torch.zeros(5, device=device))


def small(kind: type[Policy]) -> Policy:
    return kind(sinks=3, recent=7)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_a_choice_is_ascending_complete_and_keeps_protected_pairs(kind: type[Policy], device: str) -> None:
    policy, rng = small(kind), torch.Generator().manual_seed(5)
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
        more(slot, BLOCK, rng)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_a_choice_depends_only_on_the_slot(kind: type[Policy]) -> None:
    """The index in the pool, the pool's size, the other slots and the slot's previous sequence do not matter."""
    policy = small(kind)
    alone = policy.choose(Candidates(synthetic(1, seed=9)[0]), CAP)
    assert torch.equal(policy.choose(Candidates(synthetic(4, seed=6)[3]), CAP), alone)
    used = synthetic(3, seed=70)[1]
    used.retain([policy.choose(Candidates(used), CAP)])
    used.clear()
    more(used, N, torch.Generator().manual_seed(9))
    assert torch.equal(policy.choose(Candidates(used), CAP), alone)


@pytest.mark.parametrize("kind", POLICIES.values())
def test_policies_have_no_state_of_their_own(kind: type[Policy]) -> None:
    """A new policy and one that has been used on other slots choose the same pairs."""
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
def test_sinks_and_recent_must_be_integers(kind: type[Policy], field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=rf"^{field} must be .*, not {value}$"):
        kind(**{field: value})


@pytest.mark.parametrize("kind", POLICIES.values())
def test_protection_can_be_turned_off(kind: type[Policy]) -> None:
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


def test_h2o_keeps_the_sums_and_half_of_the_cap_for_recent_pairs(case: Case) -> None:
    """After the first eviction: the share is one of the cap."""
    policy = H2O(sinks=2, recent=0)
    slot = case.slot(policy)
    slot.retain([torch.arange(CAP).expand(LAYERS, HEADS, -1)])
    model_tokens = tokens(BLOCK, 12)
    case.model.forward_batch([SequenceChunk(model_tokens, slot)])
    attn_sum = torch.stack(observer_of(slot).attn_sum).double().numpy()
    chosen = policy.choose(Candidates(slot), CAP).numpy()
    assert (chosen == best(attn_sum, 2, CAP // 2)).all()


def test_h2o_halves_the_cap_at_the_first_eviction(case: Case) -> None:
    attn_sum = case.seen.grouped.sum(2)
    policy = H2O(sinks=2, recent=0)
    assert (case.chosen(policy) == best(attn_sum, 2, CAP // 2)).mean() > 0.98


def test_h2o_scores_older_pairs_by_attention(case: Case) -> None:
    wanted, got = case.seen.grouped.sum(2), case.scores(H2O(recent_share=0.25))
    older = N - CAP // 4  # the recent share is one of the cap
    np.testing.assert_allclose(got[..., :older], wanted[..., :older], atol=2e-4)
    assert got[..., older:].min() > got[..., :older].max()


@pytest.mark.parametrize(("queries", "kernel"), [(10, 5), (20, 1), (1, 3), (32, 7)])
def test_snapkv_pools_the_attention_of_the_last_queries(case: Case, queries: int, kernel: int) -> None:
    summed = case.seen.grouped[:, :, N - queries :].sum(2)
    wanted = np.zeros_like(summed)
    for j in range(N):
        near = range(max(0, j - kernel // 2), min(N, j + kernel // 2 + 1))
        wanted[..., j] = sum(summed[..., i] for i in near) / len(near)
    np.testing.assert_allclose(case.scores(SnapKV(window_size=queries, kernel_size=kernel)), wanted, atol=1e-4)


def test_tova_keeps_one_set_for_each_layer(case: Case) -> None:
    wanted = case.seen.attention[:, :, -1].mean(1)  # over all heads
    scores = case.scores(TOVA())
    for head in range(HEADS):
        np.testing.assert_allclose(scores[:, head], wanted, atol=1e-5)
    chosen = case.chosen(TOVA(sinks=0, recent=1))
    assert (chosen[:, 0] == chosen[:, 1]).all()
    assert (chosen[:, 0] == best(wanted, 0, 1)).mean() > 0.98


def test_streaming_llm_keeps_the_first_and_the_last(case: Case) -> None:
    chosen = case.chosen(StreamingLLM(sinks=5, recent=3))
    assert (chosen == np.array([*range(5), *range(N - CAP + 5, N)])).all()


@pytest.mark.parametrize("rotated", [True, False])
def test_keydiff_is_the_distance_from_the_mean_direction(case: Case, rotated: bool) -> None:
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
    """[D, D]: rotation of a query at a position."""
    half = len(inv_freq)
    matrix = np.zeros((2 * half, 2 * half))
    for i, frequency in enumerate(inv_freq):
        c, s = scaling * math.cos(position * frequency), scaling * math.sin(position * frequency)
        matrix[i, i], matrix[i, i + half] = c, -s
        matrix[i + half, i], matrix[i + half, i + half] = s, c
    return matrix


def mean_rotation(rotary: Rotary, start: int, horizon: int) -> Array:
    inv_freq = rotary.inv_freq.double().numpy()
    return np.asarray(sum(rotation(inv_freq, rotary.scaling, start + i) for i in range(horizon)) / horizon)


def test_expected_attention_equals_the_gaussian_formula(case: Case) -> None:
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


@pytest.mark.slow
def test_expected_attention_is_the_mean_attention_of_gaussian_queries() -> None:
    """Monte Carlo: queries drawn with the mean and covariance of the observed ones, turned by the mean rotation."""
    slot, policy = synthetic(1, seed=20)[0], ExpectedAttention(horizon=16, epsilon=0.0)
    pairs = Candidates(slot)
    assert pairs.queries is not None
    got = policy.score(pairs).double().numpy() / pairs.values.double().norm(dim=-1).numpy()
    turn, rng = mean_rotation(slot.rotary, N, 16), np.random.default_rng(1)
    for layer, head in ((0, 0), (1, 1)):
        total = np.zeros(N)
        for g in range(2):
            queries = pairs.queries[layer, 2 * head + g].double().numpy()
            assert len(queries) == BLOCK
            drawn = rng.multivariate_normal(queries.mean(0), np.cov(queries.T, bias=True), 200_000) @ turn.T
            paid = np.exp(drawn @ pairs.keys[layer, head].double().numpy().T / math.sqrt(8)).mean(0)
            total += paid / paid.sum() / 2
        np.testing.assert_allclose(got[layer, head], total, rtol=0.05)


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_r_kv_weighs_attention_against_similarity_to_other_keys(case: Case, weight: float) -> None:
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
    """[L, H, tokens]: 1 for tokens that remain after that many evictions; no forward pass is needed."""
    shape = SlotShape(CacheShape(2, 3, 2, torch.float32), cap, block)
    slot = SlotPool(shape, Rotary(torch.ones(1)), 1).slots[0]
    for _ in range(evictions):
        slot.advance(slot.capacity - slot.length)
        slot.retain([policy.choose(Candidates(slot), cap)])
    present = torch.zeros(2, 3, slot.num_tokens)
    token_index = torch.stack([token_index_of(slot, layer) for layer in range(2)])
    return present.scatter_(2, token_index.long(), 1.0)


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
    # Heads and layers draw independently.
    one = survivors(Random(sinks=sinks, recent=recent), 1).flatten(0, 1)
    assert len({tuple(row.tolist()) for row in one}) == 6


def test_choices_of_the_random_policy_depend_on_its_seed() -> None:
    first, again, other = (survivors(Random(sinks=2, recent=4, seed=seed), 3) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("seed", [2**62])
def test_an_invalid_seed_is_refused_at_once(seed: int) -> None:
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
def test_an_invalid_parameter_is_refused_at_once(kind: type[Policy], wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=str(next(iter(wrong)))):
        kind(**wrong)
