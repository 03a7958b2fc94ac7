"""`generate`: equal to unmodified transformers where nothing is evicted, and to a slow list of pairs where it is."""

from __future__ import annotations

import random
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
from minseek.engine import Engine, Generation, Job
from minseek.errors import InputError
from minseek.models.forward.chunk import SequenceChunk
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob
from tests.helpers.generation import END, GREEDY, LONG, continued, generation, make_plan, outputs, text_model
from tests.helpers.loading import load
from tests.helpers.prompts import tokens
from tests.helpers.slots import token_index_of
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, save

VARIANTS = (
    *(*ARCHITECTURES, "llama-tied", "llama-mha", "llama-biases", "llama-llama3", "llama-odd"),
    *("qwen2-window", "qwen3-yarn", "mistral-window"),
)
LENGTHS = (1, 30, 150, 7, 90, 129, 2)
PROMPTS = [tokens(length, 100 + length) for length in LENGTHS]
NEW = 20


class Pair:
    """Our model, and what transformers writes with the same weights."""

    def __init__(self, variant: str, folder: Path) -> None:
        save(folder, variant)
        self.variant = variant
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = minseek.load(str(folder), device=device, dtype="float32")
        reference = make_reference(variant)
        self.wanted = [continued(reference, prompt, NEW) for prompt in PROMPTS]

    def check(self, completions: Sequence[minseek.engine.Completion], order: Sequence[int] | None = None) -> None:
        for index, got in zip(order or range(len(PROMPTS)), completions, strict=True):
            wanted = self.wanted[index]
            assert got.tokens == wanted
            assert got.finish_reason == ("length" if len(wanted) == NEW else "stop")
            assert got.text == self.model.decode(wanted)
            assert (got.stats.prompt_tokens, got.stats.new_tokens) == (LENGTHS[index], len(wanted))
            assert (got.stats.evictions, got.stats.reencodings) == (0, 0)


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("pair"))


# Nothing is evicted


def test_sequences_that_fit_are_plain_generation(pair: Pair) -> None:
    """Without a plan, alone, in slots that are taken again, and in another order."""
    pair.check(minseek.generate(pair.model, PROMPTS, max_new_tokens=NEW))
    for slots in (1, 2, 20):
        plan = make_plan(pair.model, None, cap=max(LENGTHS) + NEW - 16, sequences=slots)
        pair.check(minseek.generate(pair.model, PROMPTS, plan=plan, max_new_tokens=NEW))
    order = [4, 2, 0, 6, 5, 1, 3]
    got = minseek.generate(pair.model, [PROMPTS[i] for i in order], plan=plan, max_new_tokens=NEW)
    pair.check(got, order)


def test_a_policy_changes_nothing_where_all_fits(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every policy with the four architectures, with variants one of each kind: by attention, window, queries."""

    def asked(*_: Any) -> None:
        raise AssertionError("a policy is asked only when pairs must go")

    for policy in POLICIES if pair.variant in ARCHITECTURES else ("rank-sum", "snapkv", "expected-attention"):
        monkeypatch.setattr(POLICIES[policy], "choose", asked)
        plan = make_plan(pair.model, policy, cap=max(LENGTHS) + NEW - 16)  # the last token need not be fed
        pair.check(minseek.generate(pair.model, PROMPTS, plan=plan, max_new_tokens=NEW))


@pytest.mark.parametrize("policy", [None, "rank-sum", "expected-attention"])
@pytest.mark.parametrize("variant", ["llama", "qwen3-yarn", "mistral-window"])
def test_without_the_kernels_too(
    variant: str, policy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(variant, tmp_path)
    pair.model = load(tmp_path, "cpu", "PyTorch", monkeypatch)
    pair.check(minseek.generate(pair.model, PROMPTS, policy=policy, max_new_tokens=NEW))


# Company and order


@pytest.mark.parametrize("policy", POLICIES)
def test_with_evictions_a_sequence_depends_on_nothing_but_itself(tiny: minseek.Model, policy: str) -> None:
    alone = [outputs(tiny, make_plan(tiny, policy, sequences=1), [prompt])[0] for prompt in LONG]
    for slots in (1, 2, 9):
        assert outputs(tiny, make_plan(tiny, policy, sequences=slots), LONG) == alone
    backwards = outputs(tiny, make_plan(tiny, policy), LONG[::-1])
    assert backwards[::-1] == alone
    full = outputs(tiny, make_plan(tiny, None, cap=496), LONG)
    assert full != alone  # something was evicted, and told


@pytest.mark.parametrize("variant", ["mistral-window", "qwen3-yarn"])
def test_also_when_more_sequences_want_to_read_than_a_pass_takes(variant: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, variant)), device="cpu", dtype="float32")
    prompts = [tokens(300 + 17 * i, i) for i in range(9)] + [tokens(3, 50 + i) for i in range(3)]
    alone = [outputs(model, make_plan(model, "rank-sum", cap=150, block=64), [prompt])[0] for prompt in prompts]
    together = make_plan(model, "rank-sum", cap=150, block=64, sequences=12)
    assert outputs(model, together, prompts) == alone


def test_more_slots_than_a_pass_has_columns(tiny: minseek.Model) -> None:
    prompts = [tokens(1 + seed % 9, seed) for seed in range(620)]
    many, few = (make_plan(tiny, "rank-sum", cap=37, block=4, sequences=slots) for slots in (600, 50))
    assert outputs(tiny, many, prompts, max_new_tokens=3) == outputs(tiny, few, prompts, max_new_tokens=3)


def test_sampling_depends_on_the_seed_and_not_on_the_batch(tiny: minseek.Model) -> None:
    samplings = [minseek.Sampling(temperature=1.5, top_p=0.99, seed=seed) for seed in range(len(LONG))]
    plans = [make_plan(tiny, "rank-sum", sequences=slots) for slots in (1, 4, 9)]
    first, *others = (outputs(tiny, plan, LONG, sampling=samplings) for plan in plans)
    assert all(other == first for other in others)
    assert outputs(tiny, plans[1], LONG[::-1], sampling=samplings[::-1])[::-1] == first
    reseeded = [replace(s, seed=s.seed + 100) for s in samplings if s.seed is not None]
    assert outputs(tiny, plans[1], LONG, sampling=reseeded) != first
    one = minseek.Sampling(temperature=1.5, seed=3)
    same = outputs(tiny, plans[1], [LONG[2]] * 5, sampling=one)
    assert same == [same[0]] * 5  # one sampling for all: the same seed for each
    mixed = outputs(tiny, plans[2], LONG, sampling=[GREEDY, *samplings[1:]])
    assert mixed[0] == outputs(tiny, plans[0], LONG[:1])[0]
    assert mixed[1:] == first[1:]


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_leaks_from_one_request_to_the_next(tiny: minseek.Model, policy: str) -> None:
    plan = make_plan(tiny, policy, sequences=1)
    first, _, again = outputs(tiny, plan, [LONG[1], LONG[7], LONG[1]])
    assert first == again


def test_an_engine_runs_again(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, "snapkv", sequences=2))
    runs = []
    for _ in range(2):
        jobs = [generation(tiny, prompt) for prompt in LONG]
        assert {id(job) for job in engine.run(jobs)} == {id(job) for job in jobs}
        runs.append([job.tokens for job in jobs])
    assert runs[0] == runs[1]


# Evictions against a list of pairs


@dataclass(eq=False)
class Noted:
    """A pair of one head: its key without position, its value, and what is noted of it."""

    key: Tensor
    value: Tensor
    position: int
    arrival: int
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
    heads: list[list[list[Noted]]] = field(default_factory=list)
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
        """All layers have the same room until they are full for the first time."""
        return [(cap if self.evictions else self.cap) + self.block for cap in self.caps]

    @property
    def room(self) -> int:
        return min(room - length for room, length in zip(self.capacities, self.lengths, strict=True))

    def forward(self, given: Sequence[int]) -> Tensor:
        """Feed as the engine does: up to the next eviction, with positions renewed at the context's end."""
        at, logits = 0, torch.empty(0)
        while at < len(given):
            if not self.room:
                self.evict()
            count = min(len(given) - at, 128, self.room)
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
        full = [length == room for length, room in zip(self.lengths, self.capacities, strict=True)]
        for layer, cap, due in zip(self.heads, self.caps, full, strict=True):
            for head, pairs in enumerate(layer):
                if not due or len(pairs) <= cap:
                    continue
                scores = {id(p): p.attn_sum / (self.seen - p.arrival) for p in pairs}
                safe = [p for p in pairs if p.arrival < self.sinks] + pairs[len(pairs) - self.recent :]
                others = [p for p in pairs if p not in safe]
                others.sort(key=lambda p: -scores[id(p)])
                stay = {id(p) for p in safe + others[: cap - len(safe)]}
                layer[head] = [p for p in pairs if id(p) in stay]
        self.evictions += 1

    def turn(self, x: Tensor, position: int) -> Tensor:
        angles = position * self.reference.model.rotary_emb.inv_freq.double()
        product = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((product.real, product.imag), dim=-1)

    def step(self, token: int) -> Tensor:
        model, stands = self.reference.model, self.position
        x = model.embed_tokens.weight[token]
        for layer, heads in zip(model.layers, self.heads, strict=True):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            q = attention.q_proj(normed).view(6, 16)
            k, v = attention.k_proj(normed).view(2, 16), attention.v_proj(normed).view(2, 16)
            out = torch.zeros(6, 16, dtype=torch.float64)
            for head, pairs in enumerate(heads):
                pairs.append(Noted(k[head], v[head], stands, self.seen))
                keys = torch.stack([self.turn(p.key, p.position) for p in pairs])
                for g in range(3):
                    weights = (keys @ self.turn(q[3 * head + g], stands) / 4).softmax(0)
                    out[3 * head + g] = weights @ torch.stack([p.value for p in pairs])
                    for pair, weight in zip(pairs, weights.tolist(), strict=True):
                        pair.attn_sum += weight / 3
            x = x + attention.o_proj(out.flatten())
            normed = layer.post_attention_layernorm(x)
            x = x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed))
        self.seen, self.position = self.seen + 1, self.position + 1
        logits: Tensor = self.reference.lm_head(model.norm(x))
        return logits


class Told(Generation):
    """A generation that remembers the logits it was given, and what is in its slot at the end."""

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
    jobs = [generation(model, tokens(length, length), Told, 25) for length in (80, 33)]
    assert len(list(Engine(model, plan).run(jobs))) == 2
    for job in jobs:
        slow = SlowSequence(reference, context, caps or (24,) * 3, 24, 8, sinks=2, recent=4)
        given = job.prompt
        for token, logits in zip(job.tokens, job.logits, strict=True):
            wanted = slow.forward(given)
            torch.testing.assert_close(logits.cpu().double(), wanted, atol=2e-3, rtol=1e-3)
            assert int(wanted.argmax()) == token
            given = [token]
        assert job.token_index == [[[p.arrival for p in pairs] for pairs in layer] for layer in slow.heads]
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

    def watched(self: minseek.Model, feeds: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        given = forward_batch(self, feeds)
        for feed in feeds:
            at = torch.stack(list(feed.cache.positions))[..., : feed.cache.length]
            assert (at.diff(dim=-1) > 0).all()  # in the order of their arrival, no two at one place
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


# How a completion ends


def test_a_stop_string_ends_a_completion_and_is_left_out(tiny: minseek.Model) -> None:
    prompt, whole = text_model(tiny)
    stop = whole.text[6:9]
    at = whole.text.index(stop)
    options: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True}
    for stops in ([stop], ["never seen", stop], [stop, whole.text[-1] * 30]):
        (out,) = minseek.generate(tiny, [prompt], stop=stops, **options)
        assert out.text == whole.text[:at]
        assert out.finish_reason == "stop"
        assert out.tokens == whole.tokens[: len(out.tokens)]
        assert tiny.decode(out.tokens[:-1]) in whole.text[: at + 2]  # it ended with the stop string's last token
    (out,) = minseek.generate(tiny, [prompt], stop=["never seen"], **options)
    assert (out.text, out.finish_reason) == (whole.text, "length")
    others = [tokens(20, 1), prompt, tokens(70, 2)]
    batch = minseek.generate(tiny, others, stop=[stop], **options)
    assert batch[1].text == whole.text[:at]


def test_a_stop_string_at_the_very_beginning_leaves_an_empty_text(tiny: minseek.Model) -> None:
    prompt, whole = text_model(tiny)
    (out,) = minseek.generate(tiny, [prompt], max_new_tokens=24, ignore_eos=True, stop=[whole.text[0]])
    assert (out.text, out.finish_reason) == ("", "stop")


@pytest.mark.parametrize("stop", ["ab", [""]])
def test_stop_strings_are_checked(tiny: minseek.Model, stop: Any) -> None:
    with pytest.raises((TypeError, InputError), match="stop"):
        minseek.generate(tiny, ["hello"], max_new_tokens=2, stop=stop)


def test_the_models_end_ends_a_completion_unless_ignored(tiny: minseek.Model) -> None:
    prompts = [tokens(10, seed) for seed in range(30)]
    ended = minseek.generate(tiny, prompts, max_new_tokens=40)
    assert {out.finish_reason for out in ended} == {"stop", "length"}
    for out, on in zip(ended, minseek.generate(tiny, prompts, max_new_tokens=40, ignore_eos=True), strict=True):
        assert (len(on.tokens), on.finish_reason) == (40, "length")
        assert on.tokens[: len(out.tokens)] == out.tokens
        assert END not in out.tokens
        assert (out.finish_reason == "stop") == (len(out.tokens) < 40)
        if out.finish_reason == "stop":
            assert on.tokens[len(out.tokens)] == END


def test_text_prompts_are_taken_as_they_stand(tiny: minseek.Model) -> None:
    texts = ["Name a prime.", "é 😀", " x "]
    encoded = [tiny.encode(text) for text in texts]
    assert minseek.generate(tiny, texts, max_new_tokens=9) == minseek.generate(tiny, encoded, max_new_tokens=9)
    assert minseek.generate(tiny, [texts[0], encoded[1]], max_new_tokens=1)[1].stats.prompt_tokens == len(encoded[1])
    assert minseek.generate(tiny, []) == []


def test_figures_of_a_completion_are_its_own(tiny: minseek.Model) -> None:
    (out,) = minseek.generate(tiny, [tokens(200, 1)], plan=make_plan(tiny, "snapkv"), max_new_tokens=4, ignore_eos=True)
    assert (out.stats.prompt_tokens, out.stats.new_tokens, out.stats.evictions) == (200, 4, (203 - 40 - 1) // 16)


def test_figures_are_a_completions_own_when_its_slot_is_taken_again(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, "snapkv", sequences=1)
    got = minseek.generate(tiny, [tokens(200, 1), tokens(10, 2)], plan=plan, max_new_tokens=4, ignore_eos=True)
    assert [out.stats.evictions for out in got] == [10, 0]


# What is refused


@pytest.mark.parametrize(
    ("prompts", "options", "error", "sentence"),
    [
        (["a", ""], {}, InputError, "prompt 1 is empty: there is nothing to continue"),
        ([[]], {}, InputError, "prompt 0 is empty: there is nothing to continue"),
        ("hello", {}, TypeError, "prompts must be a sequence of texts, not one text: put it into a list"),
        (["a"], {"max_new_tokens": 0}, InputError, "max_new_tokens must be 1 or more, not 0"),
        (["a"], {"max_new_tokens": -3}, InputError, "max_new_tokens must be 1 or more, not -3"),
        (
            ["a", "b"],
            {"sampling": [GREEDY]},
            InputError,
            "there are 2 prompts and 1 samplings: give one, or one for each prompt",
        ),
        (["a"], {"policy": "newest"}, InputError, "unknown policy 'newest': choose "),
        (
            ["a"],
            {"plan": "192MB"},
            TypeError,
            "plan must be what minseek.plan returns, not '192MB': call minseek.plan first",
        ),
        (["a"], {"sampling": {}}, TypeError, "sampling must be a Sampling, or one for each prompt, not {}"),
        (["a"], {"sampling": 0.6}, TypeError, "sampling must be a Sampling, or one for each prompt, not 0.6"),
        (3, {}, TypeError, "prompts must be a sequence of texts or of token ids, not 3"),
        (
            ["a"],
            {"model": "tiny"},
            TypeError,
            "model must be what minseek.load returns, not 'tiny': load it first",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(
    tiny: minseek.Model, prompts: Any, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as raised:
        minseek.generate(**{"model": tiny, "prompts": prompts, **options})
    assert str(raised.value).startswith(sentence)


@pytest.mark.parametrize(
    ("prompts", "options", "named"),
    [
        ([[5, 6], [7, 9999]], {}, "9999"),  # refused, but only when it is fed
        ([[5, -1]], {}, "-1"),
        ([[1.5]], {}, "1.5"),
        ([5], {}, "5"),
        (["a"], {"sampling": ["greedy"]}, "greedy"),
    ],
)
def test_wrong_values_are_named_before_anything_runs(
    tiny: minseek.Model, prompts: Any, options: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_batch, passes = minseek.Model.forward_batch, []

    def counted(self: minseek.Model, feeds: Sequence[SequenceChunk]) -> tuple[Tensor, Tensor]:
        given = forward_batch(self, feeds)
        passes.append(len(feeds))
        return given

    monkeypatch.setattr(minseek.Model, "forward_batch", counted)
    plan = make_plan(tiny, None, sequences=1)
    with pytest.raises((InputError, TypeError), match=named):
        minseek.generate(tiny, prompts, plan=plan, max_new_tokens=2, **options)
    assert not passes


@pytest.mark.parametrize(("planned", "wanted"), [("rank-sum", "expected-attention"), (None, "rank-sum")])
def test_another_policy_than_the_plans_needs_no_budget_where_none_was_given(
    tiny: minseek.Model, planned: str | None, wanted: str
) -> None:
    plan = minseek.plan(tiny, lengths=[100], policy=planned)
    (out,) = minseek.generate(tiny, [tokens(80, 1)], plan=plan, policy=wanted, max_new_tokens=2)
    assert out.stats.evictions == 0


def test_another_policy_than_the_plans_stays_in_its_budget(tiny: minseek.Model) -> None:
    plan = minseek.plan(tiny, kv_budget="300KB", cap=40, block=16, policy="rank-sum")
    for policy in ("expected-attention", "streaming-llm", "random"):
        given = outputs(tiny, plan, LONG, policy=policy)
        direct = minseek.plan(tiny, kv_budget="300KB", cap=40, block=16, policy=policy)
        assert given == outputs(tiny, direct, LONG)


@pytest.mark.parametrize("context", [96, 128])
def test_a_model_of_a_short_context_needs_no_plan(context: int, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", max_position_embeddings=context)), device="cpu", dtype="float32")
    (out,) = minseek.generate(model, [tokens(20, 1)], max_new_tokens=4, ignore_eos=True)
    assert len(out.tokens) == 4


# Thinking beside generating


QUESTIONS = (
    "What is 1+1?",
    "hello",
    "Why?",
    "Name a prime.",
    "x",
    "2*3*5",
    "Is it so? Think.",
    "Sort: c b a",
    "y" * 90,
)


@pytest.mark.parametrize("policy", [None, "rank-sum"])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("strategy", [minseek.MinSeek(3), minseek.BudgetForcing(2), minseek.Standard()])
def test_thinking_in_slots_is_thinking_alone(
    tiny: minseek.Model, strategy: Any, sampled: bool, policy: str | None
) -> None:
    """Thoughts, answers and figures are those of `reason`, in few slots, together with plain generation."""
    plan = make_plan(tiny, policy, cap=200, block=40)
    limits = minseek.Limits(answer_tokens=10, max_thought_tokens=40)
    samplings = [minseek.Sampling(temperature=1.0, seed=seed) if sampled else GREEDY for seed in range(len(QUESTIONS))]
    thinking = [
        ThinkingJob(tiny, question, RunOptions(strategy=strategy, sampling=sampling, limits=limits), plan=plan)
        for question, sampling in zip(QUESTIONS, samplings, strict=True)
    ]
    prompts = [prompt for prompt in LONG if policy or len(prompt) <= 200]
    plain: list[Any] = [
        Generation(tiny, prompt, max_new_tokens=30, sampling=GREEDY, evicts=policy is not None, ignore_eos=True)
        for prompt in prompts
    ]
    jobs: list[Job] = [*thinking, *plain]
    random.Random(1).shuffle(jobs)
    assert len(list(Engine(tiny, plan).run(jobs))) == len(jobs)
    assert [job.tokens for job in plain] == outputs(tiny, plan, prompts)
    room = replace(limits, kv_budget=plan.slot.capacity * tiny.token_bytes())
    for job, question, sampling in zip(thinking, QUESTIONS, samplings, strict=True):
        alone = minseek.reason(tiny, question, strategy=strategy, sampling=sampling, limits=room)
        got = job.result()
        assert got.tokens == alone.tokens
        assert got.answer == alone.answer
        assert [(t.tokens, t.text, t.kept, t.ended_by) for t in got.thoughts] == [
            (t.tokens, t.text, t.kept, t.ended_by) for t in alone.thoughts
        ]
        timeless = replace(alone.stats, seconds=got.stats.seconds, prefill_seconds=got.stats.prefill_seconds)
        assert got.stats == timeless


def test_thinking_ends_with_its_slot(tiny: minseek.Model) -> None:
    """Unbounded thoughts in a small slot: the slot bounds the run as a budget would, and is never overrun."""
    plan = make_plan(tiny, "rank-sum", cap=60, block=30, sequences=2)
    jobs = [
        ThinkingJob(
            tiny,
            question,
            RunOptions(strategy=minseek.BudgetForcing(20), sampling=minseek.Sampling(seed=seed)),
            plan=plan,
        )
        for seed, question in enumerate(QUESTIONS[:5])
    ]
    list(Engine(tiny, plan).run(jobs))
    results = [job.result() for job in jobs]
    assert all(result.stats.kv_tokens_peak <= 90 for result in results)
    assert any(result.stats.ended_by == "kv-budget" for result in results)
    limits = minseek.Limits(kv_budget=90 * tiny.token_bytes())
    for seed, (question, result) in enumerate(zip(QUESTIONS[:5], results, strict=True)):
        alone = minseek.reason(
            tiny, question, strategy=minseek.BudgetForcing(20), sampling=minseek.Sampling(seed=seed), limits=limits
        )
        assert result.tokens == alone.tokens


def test_a_question_that_does_not_fit_into_a_slot_is_refused_at_once(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=60, block=30)
    with pytest.raises(InputError, match=r"a slot holds 90 tokens, .* need at least \d+"):
        ThinkingJob(tiny, "x" * 100, plan=plan)


def test_a_slot_needs_no_memory_that_is_still_free(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slots are allocated already: a GPU tells only what is left beside them."""
    plan = make_plan(tiny, None, cap=60, block=30, sequences=2)
    monkeypatch.setattr(
        "minseek.reasoning.run_plan.memory_bytes", lambda _: plan.slot.capacity * tiny.token_bytes() - 1
    )
    sampling, limits = minseek.Sampling(seed=1), minseek.Limits(kv_budget=90 * tiny.token_bytes())
    for own in (None, limits):
        job = ThinkingJob(tiny, "hello", RunOptions(sampling=sampling, limits=own or minseek.Limits()), plan=plan)
        assert list(Engine(tiny, plan).run([job])) == [job]
        assert job.result().stats.kv_tokens_peak <= 90
    with pytest.raises(InputError, match="allocated at once, and the device has"):
        minseek.reason(tiny, "hello", sampling=sampling, limits=limits)


def test_a_smaller_budget_than_the_slot_holds(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40, sequences=1)
    limits = minseek.Limits(kv_budget=70 * tiny.token_bytes())
    strategy, sampling = minseek.BudgetForcing(20), minseek.Sampling(seed=1)
    job = ThinkingJob(tiny, "hello", RunOptions(strategy=strategy, sampling=sampling, limits=limits), plan=plan)
    list(Engine(tiny, plan).run([job]))
    alone = minseek.reason(tiny, "hello", strategy=strategy, sampling=sampling, limits=limits)
    assert alone.stats.kv_tokens_peak <= 70
    assert job.result().stats.kv_tokens_peak <= 70
    assert job.result().tokens == alone.tokens


# The engine's own figures


def test_progress_counts_prefill_and_decode_tokens(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, "snapkv", sequences=2))
    jobs = [generation(tiny, tokens(length, length), new=10) for length in (50, 70, 128)]
    list(engine.run(jobs))
    progress = engine.progress
    assert (progress.prefill_tokens, progress.decode_tokens, progress.in_use) == (248, 3 * 9, 0)
    assert progress.evictions == sum((length + 9 - 40 - 1) // 16 for length in (50, 70, 128))
    assert progress.prefill_seconds > 0 < progress.decode_seconds


def test_a_prompts_last_token_is_read(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, "snapkv", sequences=1))
    list(engine.run([generation(tiny, tokens(57, 1), new=10)]))  # 56 up to the eviction, and one
    assert (engine.progress.prefill_tokens, engine.progress.decode_tokens) == (57, 9)
