"""`generate`: equal to unmodified transformers where nothing is evicted, and to a slow list of pairs where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import minseek
from minseek.cache.policies import POLICIES
from minseek.engine import Engine
from minseek.errors import InputError
from minseek.models.forward.chunk import SequenceChunk
from tests.helpers.generation import END, GREEDY, LONG, continued, generation, make_plan, outputs, text_model
from tests.helpers.loading import load
from tests.helpers.prompts import tokens
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, save

pytestmark = pytest.mark.slow

VARIANTS = (
    *(*ARCHITECTURES, "llama-tied", "llama-mha", "llama-biases", "llama-llama3", "llama-odd"),
    *("qwen2-window", "qwen3-yarn", "mistral-window"),
)
LENGTHS = (1, 30, 150, 7, 90, 129, 2)
PROMPTS = [tokens(length, 100 + length) for length in LENGTHS]
NEW = 20


class Pair:
    """Our model, and the tokens that transformers generates with the same weights."""

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
    """Every policy with the four architectures, with variants one of each kind: attention, window, queries."""

    def refuse_choice(*_: Any) -> None:
        raise AssertionError("a policy chooses only if pairs must be evicted")

    for policy in POLICIES if pair.variant in ARCHITECTURES else ("rank-sum", "snapkv", "expected-attention"):
        monkeypatch.setattr(POLICIES[policy], "choose", refuse_choice)
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


# Batch composition and order


@pytest.mark.parametrize("policy", POLICIES)
def test_with_evictions_a_sequence_depends_on_nothing_but_itself(tiny: minseek.Model, policy: str) -> None:
    alone = [outputs(tiny, make_plan(tiny, policy, sequences=1), [prompt])[0] for prompt in LONG]
    for slots in (1, 2, 9):
        assert outputs(tiny, make_plan(tiny, policy, sequences=slots), LONG) == alone
    backwards = outputs(tiny, make_plan(tiny, policy), LONG[::-1])
    assert backwards[::-1] == alone
    full = outputs(tiny, make_plan(tiny, None, cap=496), LONG)
    assert full != alone  # something was evicted


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


# End of a completion


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


def test_text_prompts_are_used_unchanged(tiny: minseek.Model) -> None:
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


# Refusals


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
        (3, {}, TypeError, "prompts must be a sequence of texts, of token ids or of conversations, not 3"),
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


# Conversations


def test_a_conversation_is_put_into_the_template_and_a_text_is_not(tiny: minseek.Model) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    rendered = tiny.tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
    replied, raw, ids = minseek.generate(tiny, [talk, "Why?", rendered], max_new_tokens=12)
    assert replied.tokens == ids.tokens
    assert replied.stats.prompt_tokens == len(rendered) > raw.stats.prompt_tokens == len(tiny.encode("Why?"))
    assert replied.text == tiny.decode(replied.tokens)


@pytest.mark.parametrize(
    ("prompts", "error", "said"),
    [
        ([[{"role": "user", "content": " "}]], InputError, "prompt 0: the last message is empty"),
        (["a", [{"role": "assistant", "content": "x"}]], InputError, "prompt 1: the last message must be the user's"),
        ([[{"role": "user"}]], InputError, "prompt 0: the content of message 0 must be a text"),
        ([{"role": "user", "content": "a"}], TypeError, "not one conversation: put it into a list"),
    ],
)
def test_what_is_no_conversation_is_refused(tiny: minseek.Model, prompts: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        minseek.generate(tiny, prompts)


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
