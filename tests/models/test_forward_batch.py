"""Passes over many sequences: logits, batch invariance, and attention statistics."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import minseek
from minseek.cache import Slot, SlotShape
from minseek.models.forward.chunk import SequenceChunk
from minseek.native.isa import NAMES
from tests.helpers.levels import use_level
from tests.helpers.loading import load
from tests.helpers.prompts import tokens
from tests.helpers.slots import observer_of, token_index_of
from tests.helpers.tiny_models import VARIANTS, make_reference, save

LENGTHS = (70, 1, 33, 16, 47)


def slots(model: minseek.Model, count: int, capacity: int = 80, evicts: bool = True, hidden: int = 0) -> list[Slot]:
    shape = SlotShape(model.cache_shape, capacity - 16, 16, evicts, hidden_size=hidden)
    return model.make_slot_pool(shape, count, window=5).slots


@pytest.mark.parametrize("step", ["C", "PyTorch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_mixed_sequences_equal_transformers(
    variant: str, step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = load(save(tmp_path, variant), device, step, monkeypatch), make_reference(variant)
    rng = random.Random(7)
    prompts = [tokens(n, seed) for seed, n in enumerate(LENGTHS)]
    wanted = [reference(torch.tensor([ids])).logits[0] for ids in prompts]
    for evicts in (False, True):
        at = [0] * len(prompts)
        held = slots(model, len(prompts), evicts=evicts)
        while any(a < len(p) for a, p in zip(at, prompts, strict=True)):
            chunks, expected = [], []
            for index, ids in enumerate(prompts):
                count = min(len(ids) - at[index], rng.choice([0, 1, 1, 2, 15, 16, 31]))
                if count:
                    num_logits = rng.randint(0, count)
                    chunks.append(SequenceChunk(ids[at[index] : at[index] + count], held[index], num_logits))
                    at[index] += count
                    expected.append(wanted[index][at[index] - num_logits : at[index]])
            if chunks:
                logits, hidden = model.forward_batch(chunks)
                torch.testing.assert_close(logits.cpu(), torch.cat(expected), atol=3e-4, rtol=3e-4)
                assert hidden.shape == (len(logits), model.hidden_size)


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("variant", ["qwen3", "llama-odd", "llama-biases"])
def test_passes_of_few_tokens_give_the_same_bits(
    variant: str, isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few columns, two or four rows of weights share a vector."""
    use_level(isa, monkeypatch)
    model = minseek.load(str(save(tmp_path, variant)), device="cpu", dtype="bfloat16")
    assert model.backend == "C"

    def given(count: int) -> list[torch.Tensor]:
        held = slots(model, count, hidden=model.hidden_size)
        logits = [
            model.forward_batch([SequenceChunk([7 * i + step], slot, 1) for i, slot in enumerate(held)])[0]
            for step in (0, 1)
        ]
        return [*logits, held[0].memory.last_hidden]

    most = given(17)
    for count in (1, 2, 4, 5, 8, 9, 16):
        for few, many in zip(given(count), most, strict=True):
            assert torch.equal(few, many[:count])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_results_are_batch_invariant(dtype: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "qwen3")), device="cpu", dtype=dtype)
    assert model.backend == "C"
    ids = tokens(60, 1)

    def logits(num_others: int) -> torch.Tensor:
        held = slots(model, num_others + 1, hidden=model.hidden_size)
        mine, others = held[0], held[1:]
        got = []
        for start, stop in ((0, 32), (32, 33), (33, 60)):
            chunks = [SequenceChunk(tokens(7, i), other) for i, other in enumerate(others) if other.length < 70]
            chunks.insert(num_others // 2, SequenceChunk(ids[start:stop], mine, stop - start))
            got.append(model.forward_batch(chunks)[0])
        counted = torch.stack([*observer_of(mine).attn_sum, *observer_of(mine).attn_window_sum])[..., :60].flatten()
        return torch.cat(
            [*(g.flatten() for g in got), counted, mine.memory.surprise[0, :60], mine.memory.last_hidden[0]]
        )

    alone = logits(0)
    for num_others in (1, 5, 17):
        assert torch.equal(logits(num_others), alone)  # to the last bit


@pytest.mark.parametrize("step", ["C", "PyTorch"])
def test_nans_stay_in_their_sequence(step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(save(tmp_path, "llama"), device, step, monkeypatch)

    def given(held: list[Slot]) -> torch.Tensor:
        chunks = [SequenceChunk(tokens(5, 1), held[0]), SequenceChunk(tokens(60, 2), held[1])]
        model.forward_batch(chunks)
        return model.forward_batch([SequenceChunk([7], held[0], 1), SequenceChunk([8], held[1], 1)])[0]

    used = slots(model, 2)
    for tensor in (used[0].memory.keys, used[0].memory.values):
        tensor.fill_(torch.nan)
    for slot in used:
        slot.clear()
    torch.testing.assert_close(given(used), given(slots(model, 2)), atol=0, rtol=0)


@pytest.mark.parametrize("step", ["C", "PyTorch"])
def test_single_tokens_of_two_pools_and_of_a_thought_cache(
    step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = load(save(tmp_path, "qwen3"), device, step, monkeypatch), make_reference("qwen3")
    held = [*slots(model, 2), *slots(model, 2, 100), *slots(model, 1, evicts=False), model.session()._cache]
    texts = [tokens(10 + 5 * index, index) for index in range(len(held))]
    model.forward_batch([SequenceChunk(ids[:-1], cache) for ids, cache in zip(texts, held, strict=True)])
    logits, _ = model.forward_batch([SequenceChunk(ids[-1:], cache, 1) for ids, cache in zip(texts, held, strict=True)])
    wanted = torch.stack([reference(torch.tensor([ids])).logits[0, -1] for ids in texts])
    torch.testing.assert_close(logits.cpu(), wanted, atol=3e-4, rtol=3e-4)


@pytest.mark.parametrize("step", ["C", "PyTorch"])
@pytest.mark.parametrize("variant", ["llama", "qwen3", "mistral-window"])
def test_attention_sums_equal_those_of_transformers(
    variant: str, step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(save(tmp_path, variant), device, step, monkeypatch)
    reference = make_reference(variant)
    reference.set_attn_implementation("eager")
    ids = tokens(80, 3)
    paid = reference(torch.tensor([ids]), output_attentions=True).attentions
    (slot,) = slots(model, 1)
    for start, stop in ((0, 30), (30, 31), (31, 78), (78, 79), (79, 80)):
        model.forward_batch([SequenceChunk(ids[start:stop], slot)])
    for layer, weights in enumerate(paid):
        by_query = weights[0].view(2, 3, 80, 80).mean(1)
        attn_sum, attn_window_sum = observer_of(slot).attn_sum[layer], observer_of(slot).attn_window_sum[layer]
        torch.testing.assert_close(attn_sum.cpu(), by_query.sum(1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(attn_window_sum.cpu(), by_query[:, -5:].sum(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(slot.positions[1].cpu(), torch.arange(80, dtype=torch.int32).expand(2, -1))


@pytest.mark.parametrize("step", ["C", "PyTorch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_surprise_is_the_mean_logit_minus_the_tokens_logit(
    variant: str, step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reference = load(save(tmp_path, variant), device, step, monkeypatch), make_reference(variant)
    observed = slots(model, 2, hidden=model.hidden_size)
    (other,) = slots(model, 1)
    texts = [tokens(60, 8), tokens(60, 9)]
    for start, stop, num_logits in ((0, 17, 0), (17, 18, 1), (18, 19, 0), (19, 50, 31), (50, 60, 2)):
        chunks = [SequenceChunk(ids[start:stop], slot, num_logits) for ids, slot in zip(texts, observed, strict=True)]
        chunks.insert(1, SequenceChunk(tokens(7, start), other, 3))
        logits, hidden = model.forward_batch(chunks)
        assert len(logits) == len(hidden) == 2 * num_logits + 3
    for ids, slot in zip(texts, observed, strict=True):
        logits = reference(torch.tensor([ids])).logits[0, :-1]
        wanted = logits.mean(-1) - logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        torch.testing.assert_close(slot.memory.surprise[slot.index, 1:60].cpu(), wanted, atol=3e-4, rtol=3e-4)
        assert slot.memory.surprise[slot.index, 0] == 0  # nothing was expected yet, if the head has no bias


def test_after_an_eviction_the_survivors_are_attended_to_and_nothing_else(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both paths agree after an eviction in which every head keeps its own pairs."""
    save(tmp_path, "mistral-window")
    ids = tokens(120, 4)
    given = []
    for step in ("C", "PyTorch"):
        model = load(tmp_path, device, step, monkeypatch)
        (slot,) = slots(model, 1)
        rng = torch.Generator().manual_seed(1)
        model.forward_batch([SequenceChunk(ids[:80], slot)])
        chosen = torch.rand(3, 2, 80, generator=rng).topk(64).indices.sort().values
        slot.retain([chosen.to(device)])
        assert slot.length == 64
        assert torch.equal(token_index_of(slot, 1)[0].cpu(), chosen[1, 0].int())
        logits, _ = model.forward_batch([SequenceChunk(ids[80:96], slot, 16)])
        slot.retain([torch.arange(64, device=device).expand(3, 2, -1)])
        slot.reencode()
        assert slot.position == 64
        more, _ = model.forward_batch([SequenceChunk(ids[80:90], slot, 10)])
        given.append((logits.cpu(), more.cpu(), slot.memory.attn_sum.cpu()))
    for ours, theirs in zip(*given, strict=True):
        torch.testing.assert_close(ours, theirs, atol=3e-4, rtol=3e-4)


def test_a_reused_slot_keeps_no_state(tiny: minseek.Model) -> None:
    ids = tokens(40, 5)
    fresh, used = slots(tiny, 1)[0], slots(tiny, 1)[0]
    tiny.forward_batch([SequenceChunk(tokens(80, 6), used)])
    used.clear()
    first, second = (tiny.forward_batch([SequenceChunk(ids, slot, 40)])[0] for slot in (fresh, used))
    assert torch.equal(first, second)
    assert torch.equal(fresh.memory.attn_sum, used.memory.attn_sum)
