"""The reasoning loop: bounds, limits, formats, events."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import minseek
from minseek.cache import Rotary
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from tests.helpers.scripted import Scripted
from tests.helpers.tiny_models import ARCHITECTURES, save

_DEFAULTS: Any = {"strategy": minseek.MinSeek(), "sampling": minseek.Sampling(), "limits": minseek.Limits()}
SAMPLED = minseek.Sampling(temperature=1.0, top_p=1.0, seed=7)


def run(model: minseek.Model, strategy: Any = None, question: str = "hello", **limits: Any) -> minseek.Result:
    wanted = minseek.Limits(**{"answer_tokens": 20, **limits})
    return minseek.reason(model, question, strategy=strategy, sampling=SAMPLED, limits=wanted)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tiny_folders: dict[str, Path]) -> minseek.Model:
    return minseek.load(str(tiny_folders[request.param]), device="cpu", dtype="float32")


@pytest.fixture
def positions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every position that was requested."""
    seen: list[int] = []
    original = Rotary.at

    def watched(self: Rotary, start: int, count: int) -> Any:
        seen.append(start + count - 1)
        return original(self, start, count)

    monkeypatch.setattr(Rotary, "at", watched)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("thoughts", [0, 1, 5, 40])
@pytest.mark.parametrize("keep", [1, 3])
def test_the_cache_never_holds_more_than_prompt_kept_and_current(
    model: minseek.Model, thoughts: int, keep: int
) -> None:
    result = run(model, minseek.MinSeek(thoughts, keep=keep), max_thought_tokens=50)
    lengths = [thought.length for thought in result.thoughts]
    first = result.stats.prompt_tokens + lengths[0]
    held = sum(sorted(lengths[1:])[-keep:])
    longest, closing = max(lengths[1:], default=0), 1
    assert result.stats.kv_tokens_peak <= first + held + max(longest, closing + result.stats.answer_tokens)
    assert len(lengths) == thoughts + 1
    assert result.stats.kv_bytes_peak == result.stats.kv_tokens_peak * model.token_bytes()
    assert result.stats.kv_bytes == result.stats.kv_tokens * model.token_bytes()
    assert result.stats.kv_bytes_allocated >= result.stats.kv_bytes_peak


@pytest.mark.slow
@pytest.mark.parametrize("keys", ["re-rotated", "unrotated"])
def test_thinking_goes_far_beyond_the_context_inside_its_positions(
    model: minseek.Model, positions: list[int], keys: Any
) -> None:
    limits = minseek.Limits(answer_tokens=20, max_thought_tokens=60)
    result = minseek.reason(
        model, "hello", strategy=minseek.MinSeek(60), sampling=SAMPLED, limits=limits, key_storage=keys
    )
    assert result.stats.tokens > 1.5 * model.max_positions
    assert max(positions) < model.max_positions
    assert result.stats.ended_by == "thoughts"


def test_budget_forcing_stops_thinking_at_the_context_and_still_answers(
    model: minseek.Model, positions: list[int]
) -> None:
    result = run(model, minseek.BudgetForcing(None), max_thought_tokens=60)
    assert result.stats.ended_by == "context"
    assert max(positions) < model.max_positions
    assert result.stats.answer_tokens == 20 or result.stats.answer_ended_by == "end"
    assert all(thought.kept for thought in result.thoughts)


@pytest.mark.parametrize("keep", [1, 12])
def test_a_thought_that_is_cut_off_ends_thinking_if_a_kept_one_took_its_space(tiny: minseek.Model, keep: int) -> None:
    """Else it frees its tokens, and the next one is induced."""
    limits = minseek.Limits(kv_budget=110 * tiny.token_bytes(), max_tokens=4000, answer_tokens=20)
    ended = went_on = 0
    for seed in range(12):
        sampling = minseek.Sampling(temperature=1.0, top_p=1.0, seed=seed)
        strategy = minseek.MinSeek(12, keep=keep)
        events = list(minseek.stream(tiny, "hello", strategy=strategy, sampling=sampling, limits=limits))
        assert isinstance(events[-1], minseek.Finished)
        result = events[-1].result
        kept = 0
        for event in events:
            if not isinstance(event, minseek.ThoughtEnded) or not event.thought.index:
                continue
            if event.thought.finished:
                kept += 1
                continue
            assert not event.kept
            assert event.why == "cut off by the KV budget" + (", beside what is kept" if kept else "")
            if kept:
                ended += 1
                assert event.thought.index == result.stats.thoughts
                assert result.stats.ended_by == "kv-budget"
            else:
                went_on += event.thought.index < result.stats.thoughts
        assert result.stats.answer_tokens
    assert ended
    assert went_on


def test_budget_forcing_keeps_a_thought_that_was_cut_off_and_ends(tiny: minseek.Model) -> None:
    held = run(tiny, minseek.BudgetForcing(12), kv_budget=120 * tiny.token_bytes(), max_tokens=4000)
    assert held.stats.ended_by == "kv-budget"
    assert held.stats.thoughts < 12
    assert all(thought.kept for thought in held.thoughts)


def test_beyond_context_lets_budget_forcing_go_on(model: minseek.Model, positions: list[int]) -> None:
    result = run(model, minseek.BudgetForcing(None), max_thought_tokens=60, max_tokens=700, beyond_context=True)
    assert result.stats.ended_by == "max-tokens"
    assert max(positions) > model.max_positions


@pytest.mark.parametrize("strategy", [minseek.Standard(), minseek.BudgetForcing(None), minseek.MinSeek(None)])
@pytest.mark.parametrize("budget", [1, 2, 5, 17, 120])
def test_a_thinking_budget_is_never_passed_and_an_answer_comes(tiny: minseek.Model, strategy: Any, budget: int) -> None:
    result = run(tiny, strategy, thinking_budget=budget)
    assert result.stats.thinking_tokens <= budget
    assert sum(thought.length for thought in result.thoughts) == result.stats.thinking_tokens
    assert result.stats.answer_tokens == 20 or result.stats.answer_ended_by == "end"
    if not isinstance(strategy, minseek.Standard):
        assert result.stats.ended_by == "thinking-budget"


def test_unbounded_thinking_induces_nothing_after_the_soft_limit(tiny: minseek.Model) -> None:
    result = run(tiny, minseek.MinSeek(None), max_tokens=300)
    assert result.stats.ended_by == "max-tokens"
    assert sum(t.length for t in result.thoughts[:-1]) < 300 <= result.stats.thinking_tokens
    assert result.thoughts[-1].ended_by == "closed"


@pytest.mark.parametrize("keys", ["re-rotated", "unrotated"])
@pytest.mark.parametrize("strategy", [minseek.BudgetForcing(None), minseek.MinSeek(None), minseek.Standard()])
@pytest.mark.parametrize("tokens", [60, 100, 200])
def test_a_budget_of_bytes_is_never_passed(tiny: minseek.Model, strategy: Any, tokens: int, keys: Any) -> None:
    budget = tokens * tiny.token_bytes(keys) + 11
    limits = minseek.Limits(kv_budget=budget, max_tokens=2000)
    result = minseek.reason(tiny, "hello", strategy=strategy, sampling=SAMPLED, limits=limits, key_storage=keys)
    stats = result.stats
    assert stats.kv_bytes_peak == stats.kv_tokens_peak * tiny.token_bytes(keys) <= stats.kv_bytes_allocated <= budget
    assert stats.kv_tokens_peak <= tokens
    assert result.stats.answer_tokens > 0 or result.stats.answer_ended_by == "end"
    if isinstance(strategy, minseek.BudgetForcing):
        assert result.stats.ended_by == "kv-budget"
        assert result.thoughts[-1].ended_by in ("closed", "kv-budget")


def test_a_budget_that_cannot_hold_the_prompt_is_refused_before_anything_runs(
    tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(tiny), "session", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(minseek.InputError, match=r"holds 20 tokens .* need at least \d+: give .* or more"):
        run(tiny, kv_budget=20 * tiny.token_bytes())
    with pytest.raises(minseek.InputError, match=r"takes 6\d\d tokens, and the model's context holds 512"):
        run(tiny, question="long " * 120)
    with pytest.raises(minseek.InputError, match="empty"):
        run(tiny, question=" \n")


def test_a_budget_that_thoughts_of_the_least_length_must_overflow_is_refused(tiny: minseek.Model) -> None:
    budget = 100 * tiny.token_bytes()
    for strategy in (minseek.BudgetForcing(4), minseek.MinSeek(4, keep=3), minseek.MinSeek(4, answer="final-thought")):
        with pytest.raises(minseek.InputError, match="holds 100 tokens"):
            run(tiny, strategy, kv_budget=budget, min_thought_tokens=30)
    assert run(tiny, minseek.BudgetForcing(4), kv_budget=budget).stats.kv_bytes_allocated <= budget


@pytest.mark.parametrize(
    "strategy",
    [
        *(minseek.Standard(), minseek.BudgetForcing(3), minseek.MinSeek(0), minseek.MinSeek(1), minseek.MinSeek(6)),
        *(minseek.MinSeek(6, keep=2), minseek.MinSeek(2, keep=4), minseek.MinSeek(1, answer="final-thought")),
        minseek.MinSeek(6, answer="final-thought"),
    ],
)
def test_the_plan_names_the_most_a_run_comes_to_hold(tiny: minseek.Model, strategy: Any) -> None:
    limits = minseek.Limits(min_thought_tokens=20, max_thought_tokens=20, answer_tokens=30)
    events = Run(
        tiny, "hello", RunOptions(strategy=strategy, sampling=replace(SAMPLED, temperature=0.0), limits=limits)
    )
    *_, last = events.events()
    assert isinstance(last, minseek.Finished)
    stats = last.result.stats
    unfed = stats.answer_ended_by == "answer-tokens"  # the last token of a full answer is not fed any more
    spared = 0 if stats.answer_ended_by != "end" else 30 - stats.answer_tokens
    assert events.plan.max_tokens_held is not None
    assert stats.kv_tokens_peak <= events.plan.max_tokens_held
    assert stats.kv_tokens_peak >= events.plan.max_tokens_held - spared - unfed


def test_an_unbounded_run_gets_its_final_thought(tiny: minseek.Model) -> None:
    result = run(tiny, minseek.MinSeek(None, answer="final-thought"), max_tokens=150)
    assert result.stats.ended_by == "max-tokens"
    assert result.thoughts[-1].kept
    assert sum(t.length for t in result.thoughts[:-2]) < 150


@pytest.mark.parametrize("question", ["hi", "think", "k", "<think>", "What does <think> mean?", "</think>"])
def test_only_the_template_decides_whether_thinking_is_open(tiny: minseek.Model, tmp_path: Path, question: str) -> None:
    assert Run(tiny, question, RunOptions(**_DEFAULTS)).prompt.count(257) == 1 + question.count("<think>")
    leaves = minseek.load(str(save(tmp_path, "llama", "leaves")), device="cpu", dtype="float32")
    assert Run(leaves, question, RunOptions(**_DEFAULTS)).prompt[-1] == 257


def test_runs_of_one_model_in_several_threads_do_not_touch_each_other(tiny: minseek.Model) -> None:
    questions = ["hello", "Why?", "x", "Name a prime."]
    alone = [run(tiny, minseek.MinSeek(4), q, max_thought_tokens=60).tokens for q in questions]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda q: run(tiny, minseek.MinSeek(4), q, max_thought_tokens=60).tokens, questions))
    assert together == alone


def test_torchs_default_dtype_changes_nothing(tiny: minseek.Model, tiny_folders: dict[str, Path]) -> None:
    wanted = run(tiny, minseek.MinSeek(3)).tokens
    torch.set_default_dtype(torch.bfloat16)
    try:
        again = minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32")
        assert run(again, minseek.MinSeek(3)).tokens == wanted
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "wrong", [{"question": None}, {"question": 3}, {"strategy": "min-seek"}, {"strategy": minseek.MinSeek}]
)
def test_arguments_of_a_wrong_type_are_refused_before_anything_runs(tiny: minseek.Model, wrong: dict[str, Any]) -> None:
    given = {"question": "hello", **wrong}
    with pytest.raises(TypeError, match=r"a (question|strategy) is"):
        minseek.stream(tiny, given.pop("question"), **given)
    with pytest.raises(minseek.InputError, match="'paged'"):
        minseek.stream(tiny, "hello", key_storage="paged")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"model": "tiny"}, "model must be what minseek.load returns, not 'tiny': load it first"),
        ({"model": None}, "model must be what minseek.load returns, not None: load it first"),
        ({"sampling": {"seed": 1}}, "sampling must be a Sampling, not {'seed': 1}: give minseek.Sampling(…)"),
        ({"sampling": {}}, "sampling must be a Sampling, not {}: give minseek.Sampling(…)"),
        ({"limits": {"kv_budget": 9}}, "limits must be a Limits, not {'kv_budget': 9}: give minseek.Limits(…)"),
        ({"strategy": 0}, "a strategy is MinSeek(), FreshThoughts() or another one, not 0"),
        ({"induce": 5}, "induce must be a text, not 5"),
        ({"system": ["be brief"]}, "system must be a text, not ['be brief']"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("call", [minseek.reason, minseek.stream])
def test_wrong_calls_are_refused_in_one_sentence(tiny: minseek.Model, call: Any, wrong: Any, sentence: str) -> None:
    with pytest.raises(TypeError) as raised:
        call(question="hello", **{"model": tiny, **wrong})
    assert str(raised.value) == sentence


def test_a_silent_opening_stays_inside_the_budget(tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", "leaves")), device="cpu", dtype="float32")
    scripted = Scripted(model, [" " * 500])
    limits = minseek.Limits(kv_budget=45 * model.token_bytes())
    result = scripted.run(minseek.Standard(), limits, all_of_it=False)
    assert result.answer == ""
    assert result.stats.kv_tokens_peak <= 45


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny: minseek.Model) -> None:
    for tokens in ([5, 272], [272], [1, -1]):
        with pytest.raises(minseek.InputError, match="outside the model's vocabulary"):
            tiny.session().forward(tokens)


def test_logits_that_are_not_numbers_are_refused(tiny: minseek.Model) -> None:
    with pytest.raises(minseek.InputError, match="not finite"):
        minseek.decode.Sampler(SAMPLED).pick(torch.full((5,), float("nan")))


def test_the_size_named_in_a_refusal_is_enough(tiny: minseek.Model) -> None:
    with pytest.raises(minseek.InputError) as refusal:
        run(tiny, kv_budget=1000)
    enough = str(refusal.value).split("give ")[1].split(" or")[0]
    assert run(tiny, kv_budget=enough).stats.kv_bytes_allocated > 1000


def test_thought_lengths_can_be_bounded_from_both_sides(tiny: minseek.Model) -> None:
    result = run(tiny, minseek.MinSeek(8), min_thought_tokens=30, max_thought_tokens=40)
    assert all(30 <= thought.length <= 40 for thought in result.thoughts)
    exact = run(tiny, minseek.MinSeek(3), min_thought_tokens=25, max_thought_tokens=25)
    assert [thought.length for thought in exact.thoughts] == [25] * 4
    assert [thought.kept for thought in exact.thoughts] == [True, True, False, False]  # on a tie the earlier one stays


def test_the_rules_keep_what_they_say(tiny: minseek.Model) -> None:
    for rule, choose in (("shortest", min), ("longest", max), ("latest", lambda ls: ls[-1])):
        result = run(tiny, minseek.MinSeek(8, rule=rule), max_thought_tokens=60)  # type: ignore[arg-type]
        induced = [thought.length for thought in result.thoughts[1:]]
        kept = [thought for thought in result.thoughts[1:] if thought.kept]
        assert [thought.length for thought in kept] == [choose(induced)]
        if rule != "latest":
            assert kept[0].index == 1 + induced.index(choose(induced))
    result = run(tiny, minseek.MinSeek(8, keep=3, rule="random"))
    assert sum(thought.kept for thought in result.thoughts[1:]) == 3


def test_min_seek_and_budget_forcing_part_after_the_second_induced_thought(tiny: minseek.Model) -> None:
    forced, sought = (run(tiny, kind(4), max_thought_tokens=60) for kind in (minseek.BudgetForcing, minseek.MinSeek))
    assert [t.tokens for t in forced.thoughts[:3]] == [t.tokens for t in sought.thoughts[:3]]
    assert [t.tokens for t in forced.thoughts[3:]] != [t.tokens for t in sought.thoughts[3:]]


def test_a_final_thought_closes_by_itself_and_is_seen_by_the_answer(tiny: minseek.Model) -> None:
    result = run(tiny, minseek.MinSeek(4, answer="final-thought"))
    assert len(result.thoughts) == 6
    assert result.thoughts[-1].kept
    held = sum(t.length for t in result.thoughts if t.kept)
    assert result.stats.kv_tokens - result.stats.answer_tokens <= result.stats.prompt_tokens + held + 1
    assert len(run(tiny, minseek.MinSeek(0, answer="final-thought")).thoughts) == 1


def test_the_same_seed_gives_the_same_run_and_another_one_another(tiny: minseek.Model) -> None:
    for rule in ("shortest", "random"):
        strategy = minseek.MinSeek(6, rule=rule)  # type: ignore[arg-type]
        first, again = run(tiny, strategy), run(tiny, strategy)
        assert first.tokens == again.tokens
        assert [t.kept for t in first.thoughts] == [t.kept for t in again.thoughts]
    other = minseek.reason(tiny, "hello", strategy=minseek.MinSeek(6), sampling=replace(SAMPLED, seed=8))
    assert other.tokens != first.tokens


def test_events_tell_the_same_run(tiny: minseek.Model) -> None:
    strategy, limits = minseek.MinSeek(5), minseek.Limits(answer_tokens=20)
    events = list(minseek.stream(tiny, "hello", strategy=strategy, sampling=SAMPLED, limits=limits))
    assert isinstance(events[-1], minseek.Finished)
    result = events[-1].result
    assert result.tokens == run(tiny, strategy).tokens
    for thought in result.thoughts:
        own = [e for e in events if isinstance(e, minseek.ThoughtToken) and e.index == thought.index]
        assert [e.token for e in own if e.token is not None] == thought.tokens
        assert "".join(e.text for e in own) == thought.text
    answer = [e for e in events if isinstance(e, minseek.AnswerToken)]
    assert "".join(e.text for e in answer).strip() == result.answer
    ended = [e for e in events if isinstance(e, minseek.ThoughtEnded)]
    assert [e.thought for e in ended] == result.thoughts
    gone = {e.thought.index for e in ended if not e.kept} | {e.dropped for e in ended if e.dropped is not None}
    assert gone == {t.index for t in result.thoughts if not t.kept}
    started = [e for e in events if isinstance(e, minseek.ThoughtStarted)]
    assert [e.word for e in started] == ["", *["Wait"] * 5]


def test_text_and_tokens_belong_together(tiny: minseek.Model) -> None:
    result = run(tiny, minseek.MinSeek(5))
    for thought in result.thoughts[1:]:
        assert thought.text.startswith("Wait")
        assert tiny.decode(thought.tokens) == thought.text
    assert "</think>" not in "".join(t.text for t in result.thoughts)
    chain = [token for thought in result.thoughts for token in thought.tokens]
    assert result.tokens[: len(chain) + 1] == [*chain, 258]


def test_the_inducing_words_can_be_chosen(tiny: minseek.Model) -> None:
    result = minseek.reason(tiny, "hello", strategy=minseek.MinSeek(2), sampling=SAMPLED, induce="Hmm, but")
    assert all(t.text.startswith("Hmm, but") for t in result.thoughts[1:])
    with pytest.raises(minseek.InputError, match="''"):
        minseek.reason(tiny, "hello", induce="")


@pytest.mark.parametrize("template", ["opens", "leaves"])
def test_tags_of_several_tokens_are_found_and_taken_back(template: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", template, tags=False)), device="cpu", dtype="float32")
    tag = model.encode("</think>")
    assert len(tag) == 8
    sampler = Scripted(model, ["abc</thi", "x</think>", "de</think>", "f<</think>", "answer"])
    result = sampler.run(minseek.MinSeek(2))
    assert [t.text for t in result.thoughts] == ["abc</thix", "Waitde", "Waitf<"]
    assert [t.length for t in result.thoughts] == [9, 6, 6]
    assert [t.kept for t in result.thoughts] == [True, True, False]
    assert result.answer == "answer"
    assert result.stats.kv_tokens == result.stats.prompt_tokens + 9 + 6 + len(tag) + len("answer")


def test_a_model_that_does_not_open_its_thinking_is_made_to_when_thoughts_are_wanted(tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", "leaves")), device="cpu", dtype="float32")
    result = Scripted(model, ["one</think>", "two</think>", "three"]).run(minseek.MinSeek(1))
    assert [t.text for t in result.thoughts] == ["one", "Waittwo"]
    opened = Scripted(model, ["<think>", "one</think>", "three"]).run(minseek.Standard())
    assert ([t.text for t in opened.thoughts], opened.answer) == (["one"], "three")
    direct = Scripted(model, ["<thin air"]).run(minseek.Standard())
    assert (direct.thoughts, direct.answer) == ([], "<thin air")


def test_a_turn_that_ends_while_thinking_is_closed_and_answered(tiny: minseek.Model) -> None:
    result = Scripted(tiny, ["one<|end|>", "two<|end|>", "three"]).run(minseek.MinSeek(1))
    assert ([t.text for t in result.thoughts], result.answer) == (["one", "Waittwo"], "three")
    assert 258 in result.tokens


def test_a_plain_model_is_asked_for_its_final_answer(tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", "plain")), device="cpu", dtype="float32")
    result = Scripted(model, ["one<|end|>", " two<|end|>", " 3"]).run(minseek.MinSeek(1))
    assert [t.text for t in result.thoughts] == ["one", "\n\nWait, two"]
    assert result.answer == "3"
    assert "Final answer:" in model.decode(result.tokens)


def test_min_thought_tokens_needs_a_tag_of_one_token(tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", tags=False)), device="cpu", dtype="float32")
    with pytest.raises(minseek.InputError, match="'</think>' has 8"):
        run(model, min_thought_tokens=5)
