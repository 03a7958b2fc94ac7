"""The default policy, novel-values: its novelty and its limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from minseek.cache import CacheShape, Candidates, Rotary, Slot, SlotPool, SlotShape
from minseek.cache.policies import (
    NovelValues,
    Policy,
)
from tests.helpers.slots import observer_of

Array = NDArray[np.float64]


def filled(policy: Policy, values: Tensor, cap: int, block: int) -> Slot:
    """A slot whose first `cap + block` tokens have these values [L, H, n, D] and received equal attention."""
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


def test_novel_values_keep_an_unusual_span_in_every_head() -> None:
    torch.manual_seed(0)
    usual = torch.randn(12, 2, 1, 8).expand(-1, -1, 160, -1) + 0.5 * torch.randn(12, 2, 160, 8)
    odd = usual.clone()
    odd[:2, :, 60:72] = -usual[:2, :, 60:72]  # in the first sixth of the layers
    policy = NovelValues(recent_share=0.2)
    for values, kept in ((odd, True), (usual, False)):
        chosen = policy.choose(Candidates(filled(policy, values, 80, 80)), 80)
        stays = torch.zeros(12, 2, 160).scatter_(-1, chosen, 1.0)[:, :, 62:70]
        assert bool(stays.all()) == kept


def test_surprising_spans_stay_as_well() -> None:
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
def test_novel_spans_stay_within_their_limits(limits: dict[str, float], most: int) -> None:
    """8 sqrt(512), 2 sqrt(512), a tenth of 512; and all novel ones, which are fewer than 0.6 of 512."""
    torch.manual_seed(0)
    policy = NovelValues(recent_share=0, neighbors=1, dilation=1, threshold_sd=0.5, surprise=1e6, **limits)
    slot = filled(policy, torch.randn(2, 2, 640, 8), 512, 128)
    slot.memory.surprise[0] = 0
    slot.memory.surprise[0, torch.randperm(640)[:200]] = 1
    scores = policy.score(Candidates(slot))
    assert (scores >= 2 + policy.weight).sum(-1).eq(most).all()


def test_the_span_limit_of_a_layer_is_in_proportion_to_its_cap() -> None:
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


def test_novelty_is_the_same_in_all_layers() -> None:
    """One number for each token: a group that evicts nothing has the same as one that evicts, and as a uniform slot."""
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
                token_index, scores = (
                    t[0, 1, : group.length].tolist() for t in (group.token_index, group.policy_scores)
                )
                held.append(dict(zip(token_index, scores, strict=True)))
        uniform, small, large = held
        assert (len(uniform), len(small), len(large)) == (40, 32, end)  # the large one has had no reason to evict
        for other in (uniform, small):
            assert all(large[index] == pytest.approx(novelty, abs=1e-5) for index, novelty in other.items())


def windowed(row: Array, reach: int, statistic: Any) -> Array:
    """Statistic of each place and its neighbors up to `reach` away."""
    return np.array([statistic(row[max(0, i - reach) : i + reach + 1]) for i in range(len(row))])


@pytest.mark.parametrize("recent", [32, 3])
def test_novelty_equals_its_formula(recent: int) -> None:
    """Over three evictions, computed from all tokens of the sequence in float64, without block boundaries."""
    torch.manual_seed(1)
    policy = NovelValues(neighbors=5, dilation=3, layer_fraction=0.5, surprise=1.5, recent=recent)
    values, surprise = torch.randn(4, 3, 100, 8), torch.randn(100)
    slot = filled(policy, values[:, :, :60], 40, 20)
    memory, cosines, expected = slot.memory, np.empty(0), np.empty(0)
    unit = values[:2].numpy().astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    settled, edge = 0, 3  # the last tokens lack some neighbors
    for seen in (60, 80, 100):
        if seen > 60:
            slot.retain([torch.arange(20, 60).expand(4, 3, -1)])
            slot.layer_groups[0].values[:, :, 40:] = values[:, :, seen - 20 : seen]
            slot.advance(20)
        new = 60 if seen == 60 else 20
        memory.surprise[0, :new] = surprise[seen - new : seen]
        candidates = Candidates(slot)
        policy.score(candidates)
        first = candidates.policy_scores.clone()
        policy.score(candidates)  # a second call gives the same
        assert torch.equal(first, candidates.policy_scores)

        mean = unit[:, :, :seen].sum(2)
        mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
        fresh = -(unit[:, :, seen - new : seen] * mean[:, :, None]).sum(-1).mean((0, 1))
        cosines = np.concatenate((cosines, fresh))
        signals = [windowed(x, 2, np.mean) for x in (cosines, surprise[:seen].numpy().astype(np.float64))]
        end = seen - edge
        known = [x[:end] for x in signals]
        z = [(x - k.mean()) / k.std() for x, k in zip(signals, known, strict=True)]
        correlation = np.corrcoef(*known)[0, 1]
        novelty = (z[0] + 1.5 * z[1]) / math.sqrt(1 + 1.5**2 + 2 * 1.5 * correlation)
        again = windowed(novelty, 1, np.max)
        expected = np.concatenate((expected[:settled], again[settled:]))
        settled = end
        np.testing.assert_allclose(candidates.policy_scores[3, 2], expected[seen - 60 : seen], atol=1e-4)
