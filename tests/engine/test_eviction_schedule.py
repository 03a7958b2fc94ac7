"""Evictions in the engine: equal to a slow list of pairs, and prompts longer than the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import minseek
from minseek.cache import Slot
from minseek.cache.policies import POLICIES, ObservedAttention
from minseek.engine import Engine, Generation
from minseek.errors import InputError
from minseek.models.forward.chunk import SequenceChunk
from tests.helpers.generation import generation, make_plan
from tests.helpers.loading import load
from tests.helpers.prompts import tokens
from tests.helpers.slots import token_index_of
from tests.helpers.tiny_models import make_reference, save

# Evictions against a list of pairs


@dataclass(eq=False)
class PairRecord:
    """A pair of one head: its key without position, its value, its position, and the attention it received."""

    key: Tensor
    value: Tensor
    position: int
    token_index: int
    attn_sum: float = 0.0


@dataclass
class SlowSequence:
    """One sequence through a transformers Llama's weights in float64, token by token, head by head, pair by pair."""

    reference: Any
    context: int
    caps: tuple[int, ...]
    cap: int
    block: int
    sinks: int
    recent: int
    heads: list[list[list[PairRecord]]] = field(default_factory=list)
    seen: int = 0
    position: int = 0
    evictions: int = 0
    reencodings: int = 0

    def __post_init__(self) -> None:
        self.heads = [[[] for _ in range(2)] for _ in range(3)]

    @property
    def lengths(self) -> list[int]:
        return [len(layer[0]) for layer in self.heads]

    @property
    def capacities(self) -> list[int]:
        """All layers have the same capacity until they are full for the first time."""
        return [(cap if self.evictions else self.cap) + self.block for cap in self.caps]

    @property
    def free_tokens(self) -> int:
        return min(capacity - length for capacity, length in zip(self.capacities, self.lengths, strict=True))

    def forward(self, given: Sequence[int]) -> Tensor:
        """Feed as the engine does: up to the next eviction, with positions renewed at the context's end."""
        at, logits = 0, torch.empty(0)
        while at < len(given):
            if not self.free_tokens:
                self.evict()
            count = min(len(given) - at, 128, self.free_tokens)
            if self.position + count > self.context:
                self.position = max(self.lengths)
                for pairs in (pairs for layer in self.heads for pairs in layer):
                    for index, pair in enumerate(pairs):
                        pair.position = self.position - len(pairs) + index
                self.reencodings += 1
            for token in given[at : at + count]:
                logits = self.step(token)
            at += count
        return logits

    def evict(self) -> None:
        full = [length == capacity for length, capacity in zip(self.lengths, self.capacities, strict=True)]
        for layer, cap, due in zip(self.heads, self.caps, full, strict=True):
            for head, pairs in enumerate(layer):
                if not due or len(pairs) <= cap:
                    continue
                scores = {id(p): p.attn_sum / (self.seen - p.token_index) for p in pairs}
                safe = [p for p in pairs if p.token_index < self.sinks] + pairs[len(pairs) - self.recent :]
                others = [p for p in pairs if p not in safe]
                others.sort(key=lambda p: -scores[id(p)])
                stay = {id(p) for p in safe + others[: cap - len(safe)]}
                layer[head] = [p for p in pairs if id(p) in stay]
        self.evictions += 1

    def rotate(self, x: Tensor, position: int) -> Tensor:
        angles = position * self.reference.model.rotary_emb.inv_freq.double()
        product = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((product.real, product.imag), dim=-1)

    def step(self, token: int) -> Tensor:
        model, position = self.reference.model, self.position
        x = model.embed_tokens.weight[token]
        for layer, heads in zip(model.layers, self.heads, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            q = attention.q_proj(normed).view(6, 16)
            k, v = attention.k_proj(normed).view(2, 16), attention.v_proj(normed).view(2, 16)
            out = torch.zeros(6, 16, dtype=torch.float64)
            for head, pairs in enumerate(heads):
                pairs.append(PairRecord(k[head], v[head], position, self.seen))
                keys = torch.stack([self.rotate(p.key, p.position) for p in pairs])
                for g in range(3):
                    weights = (keys @ self.rotate(q[3 * head + g], position) / 4).softmax(0)
                    out[3 * head + g] = weights @ torch.stack([p.value for p in pairs])
                    for pair, weight in zip(pairs, weights.tolist(), strict=True):
                        pair.attn_sum += weight / 3
            x = x + attention.o_proj(out.flatten())
            normed = layer.post_attention_layernorm(x)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed))
        self.seen, self.position = self.seen + 1, self.position + 1
        logits: Tensor = self.reference.lm_head(model.norm(x))
        return logits


class RecordedGeneration(Generation):
    """A generation that records its logits, and the contents of its slot at the end."""

    def start(self, slot: Slot) -> Sequence[int]:
        self.logits: list[Tensor] = []
        return super().start(slot)

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        self.logits.append(logits.clone())
        given = super().next_tokens(logits)
        if not given:
            self.token_index = [token_index_of(self.cache, layer).tolist() for layer in range(3)]
            lengths = self.cache.lengths
            self.positions = [self.cache.positions[layer][:, : lengths[layer]].tolist() for layer in range(3)]
            self.counts = self.cache.evictions, self.cache.reencodings, self.cache.num_tokens
        return given


@pytest.mark.slow
@pytest.mark.parametrize("step", ["C", "PyTorch"])
@pytest.mark.parametrize("context", [512, 64])
@pytest.mark.parametrize("caps", [(), (20, 32, 20), (18, 28, 23)], ids=["one cap", "two caps", "three caps"])
def test_the_schedule_equals_a_list_of_pairs(
    caps: tuple[int, ...], context: int, step: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs in every head, their positions, logits and tokens are the same."""
    model = load(save(tmp_path, "llama", max_position_embeddings=context), device, step, monkeypatch)
    reference = make_reference("llama", max_position_embeddings=context).double()
    plan = make_plan(model, ObservedAttention(sinks=2, recent=4), cap=24, block=8, sequences=2)
    plan = replace(plan, slot=replace(plan.slot, caps=caps))
    jobs = [generation(model, tokens(length, length), RecordedGeneration, 25) for length in (80, 33)]
    assert len(list(Engine(model, plan).run(jobs))) == 2
    for job in jobs:
        slow = SlowSequence(reference, context, caps or (24,) * 3, 24, 8, sinks=2, recent=4)
        given = job.prompt
        for token, logits in zip(job.tokens, job.logits, strict=True):
            wanted = slow.forward(given)
            torch.testing.assert_close(logits.cpu().double(), wanted, atol=2e-3, rtol=1e-3)
            assert int(wanted.argmax()) == token
            given = [token]
        assert job.token_index == [[[p.token_index for p in pairs] for pairs in layer] for layer in slow.heads]
        assert job.positions == [[[p.position for p in pairs] for pairs in layer] for layer in slow.heads]
        assert job.counts == (slow.evictions, slow.reencodings, slow.seen)
    assert jobs[0].counts[0] > 7
    assert (jobs[0].counts[1] > 0) == (context == 64)


# Prompts longer than the context


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("variant", ["llama", "mistral-window"])
def test_prompts_may_be_longer_than_the_context(
    variant: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = 96
    model = minseek.load(str(save(tmp_path, variant, max_position_embeddings=context)), device="cpu", dtype="float32")
    forward_batch, highest = minseek.Model.forward_batch, []

    def watched(self: minseek.Model, chunks: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        given = forward_batch(self, chunks)
        for chunk in chunks:
            at = torch.stack(list(chunk.cache.positions))[..., : chunk.cache.length]
            assert (at.diff(dim=-1) > 0).all()  # in the order of the tokens, no position twice
            highest.append(int(at.max()))
        return given

    monkeypatch.setattr(minseek.Model, "forward_batch", watched)
    plan = make_plan(model, policy, sequences=2)
    prompts = [tokens(250, 1), tokens(97, 2)]
    got = minseek.generate(model, prompts, plan=plan, max_new_tokens=30, ignore_eos=True)
    assert max(highest) < context
    for prompt, out in zip(prompts, got, strict=True):
        assert len(out.tokens) == 30
        fed = len(prompt) + 30 - 1
        assert out.stats.evictions == (fed - 40 - 1) // 16
        assert out.stats.reencodings > 0
    assert [
        out.tokens for out in minseek.generate(model, prompts[::-1], plan=plan, max_new_tokens=30, ignore_eos=True)
    ][::-1] == [out.tokens for out in got]


def test_positions_are_those_of_the_text_as_long_as_the_context_lasts(tiny: minseek.Model) -> None:
    (out,) = minseek.generate(
        tiny, [tokens(480, 1)], plan=make_plan(tiny, "rank-sum"), max_new_tokens=32, ignore_eos=True
    )
    assert out.stats.reencodings == 0
    (out,) = minseek.generate(
        tiny, [tokens(480, 1)], plan=make_plan(tiny, "rank-sum"), max_new_tokens=40, ignore_eos=True
    )
    assert out.stats.reencodings == 1


def test_without_a_policy_long_prompts_are_refused_before_anything_runs(
    tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minseek.Model, "forward_batch", None)
    with pytest.raises(InputError, match=r"^prompt 1 of 500 tokens and 64 new ones do not fit into a slot of 512, "):
        minseek.generate(tiny, ["a", tokens(500, 1)], policy=None)
    plan = make_plan(tiny, None, cap=60, block=20)
    with pytest.raises(InputError, match=r"^prompt 0 of 77 tokens and 4 new ones do not fit into a slot of 80, "):
        minseek.generate(tiny, [tokens(77, 1)], plan=plan, max_new_tokens=4)
