"""The engine step by step, and the events of a run: jobs that come, go and fail, stop strings, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import minseek
from minseek.cache import Slot
from minseek.decode import TokenLogprob, token_logprob
from minseek.engine import Engine, Generation
from minseek.errors import InputError
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from minseek.reasoning.thinking_job import ThinkingJob
from tests.helpers.generation import GREEDY, LONG, generation, make_plan, outputs, text_model
from tests.helpers.prompts import tokens
from tests.helpers.tiny_models import save

SAMPLED = minseek.Sampling(temperature=1.0, top_p=1.0, seed=7)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a prime."},
    {"role": "assistant", "content": "7"},
    {"role": "user", "content": "Another?"},
]


class Failing(Generation):
    """A generation that raises an error when it receives logits for the n-th time."""

    at = 3

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        if len(self.tokens) == self.at:
            raise ZeroDivisionError("on purpose")
        return super().next_tokens(logits)


class Refusing(Generation):
    """A generation that does not even begin."""

    def start(self, slot: Slot) -> Sequence[int]:
        raise InputError("not today")


def finish(engine: Engine) -> list[Any]:
    """Step until no job runs; return the jobs that ended without an error."""
    done = []
    while engine.free < engine.plan.slots:
        for ended in engine.step():
            assert ended.error is None
            done.append(ended.job)
    return done


# Steps


def test_jobs_admitted_at_any_time_give_the_same_tokens_as_alone(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, "rank-sum", sequences=3)
    alone = outputs(tiny, make_plan(tiny, "rank-sum", sequences=1), LONG)
    engine, waiting, done = Engine(tiny, plan), [generation(tiny, prompt) for prompt in LONG], []
    jobs, step = list(waiting), 0
    while waiting or engine.free < 3:
        step += 1
        if waiting and engine.free and step % 4 == 0:  # one by one, into a pass that is under way
            engine.admit(waiting.pop(0))
        assert engine.free + engine.progress.in_use == 3
        done += [ended.job for ended in engine.step()]
    assert [job.tokens for job in jobs] == alone
    assert {id(job) for job in done} == {id(job) for job in jobs}


def test_an_idle_engine_does_nothing(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny, make_plan(tiny, None))
    monkeypatch.setattr(minseek.Model, "forward_batch", None)
    assert engine.step() == []
    assert (engine.free, engine.progress.in_use) == (3, 0)
    engine.cancel(generation(tiny, [5]))


def test_no_more_jobs_are_admitted_than_there_are_slots(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, None, sequences=1))
    job = generation(tiny, [5, 6], new=3)
    engine.admit(job)
    with pytest.raises(RuntimeError, match="all 1 slots are taken"):
        engine.admit(generation(tiny, [7]))
    assert finish(engine) == [job]
    engine.admit(generation(tiny, [7], new=1))
    assert len(finish(engine)) == 1


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_withdrawn_job_leaves_its_slot_and_no_trace(tiny: minseek.Model, steps: int) -> None:
    plan = make_plan(tiny, None, cap=400, sequences=2)
    engine, stays, gone = Engine(tiny, plan), generation(tiny, LONG[1]), generation(tiny, LONG[7])
    engine.admit(gone)
    engine.admit(stays)
    for _ in range(steps):
        assert engine.step() == []
    engine.cancel(gone)
    engine.cancel(gone)
    assert (engine.free, engine.progress.in_use) == (1, 1)
    written = len(gone.tokens)
    later = generation(tiny, LONG[0])
    engine.admit(later)
    assert len(finish(engine)) == 2
    assert len(gone.tokens) == written
    assert [[stays.tokens], [later.tokens]] == [outputs(tiny, plan, [LONG[1]]), outputs(tiny, plan, [LONG[0]])]


def test_a_thinking_job_can_be_withdrawn(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40, sequences=1)
    engine = Engine(tiny, plan)
    job = ThinkingJob(tiny, "hello", RunOptions(strategy=minseek.BudgetForcing(50), sampling=SAMPLED), plan=plan)
    engine.admit(job)
    for _ in range(20):
        engine.step()
    engine.cancel(job)
    after = ThinkingJob(tiny, "Why?", RunOptions(sampling=SAMPLED), plan=plan)
    engine.admit(after)
    assert finish(engine) == [after]
    slot_limits = minseek.Limits(kv_budget=plan.slot.capacity * tiny.token_bytes())
    strategy = minseek.MinSeek()
    alone = minseek.reason(tiny, "Why?", strategy=strategy, sampling=SAMPLED, limits=slot_limits)
    assert after.result().tokens == alone.tokens


def test_an_error_ends_the_job_that_raised_it_and_no_other(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=400, sequences=3)
    engine = Engine(tiny, plan)
    good = [generation(tiny, prompt) for prompt in (LONG[0], LONG[1])]
    bad = generation(tiny, LONG[4], Failing)
    for job in (good[0], bad, good[1]):
        engine.admit(job)
    ended = []
    while engine.free < 3:
        ended += engine.step()
    errors = {id(end.job): end.error for end in ended}
    assert [errors[id(job)] for job in good] == [None, None]
    assert isinstance(errors[id(bad)], ZeroDivisionError)
    assert [job.tokens for job in good] == outputs(tiny, plan, [LONG[0], LONG[1]])


def test_jobs_that_finish_in_the_pass_of_an_error_are_returned(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=400, sequences=4)
    engine = Engine(tiny, plan)
    prompt = [5, 6]
    good = [generation(tiny, prompt, new=Failing.at + 1) for _ in range(2)]
    bad, longer = generation(tiny, prompt, Failing), generation(tiny, prompt)
    running = engine.run([good[0], bad, good[1], longer])
    done = [next(running), next(running)]
    with pytest.raises(ZeroDivisionError):
        next(running)
    assert done == good
    assert engine.free == 4


def test_logits_that_are_no_numbers_end_one_job(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny, make_plan(tiny, None, cap=400, sequences=2))
    good, bad = generation(tiny, LONG[0]), generation(tiny, LONG[2])
    monkeypatch.setattr(
        bad,
        "next_tokens",
        lambda logits: Generation.next_tokens(bad, torch.full_like(logits, float("nan"))),
        raising=True,
    )
    engine.admit(bad)
    engine.admit(good)
    ended = [end for _ in range(60) for end in engine.step()]
    assert [(end.job is good, type(end.error)) for end in ended] == [(False, InputError), (True, type(None))]
    assert len(good.tokens) == 30


@pytest.mark.parametrize(("wanted", "named"), [([5, 272], "272"), ([-1, 5], "-1"), ([], "nothing to feed")])
def test_tokens_that_would_stop_the_pass_are_refused_at_the_door(
    tiny: minseek.Model, wanted: list[int], named: str
) -> None:
    engine = Engine(tiny, make_plan(tiny, None, sequences=1))
    with pytest.raises(InputError, match=named):
        engine.admit(generation(tiny, wanted))
    with pytest.raises(InputError, match="not today"):
        engine.admit(generation(tiny, [5], Refusing))
    assert engine.free == 1
    good, bad = generation(tiny, [5], new=4), generation(tiny, [5], new=4)
    engine.admit(bad)
    bad.next_tokens = lambda logits: [272]
    (ended,) = engine.step()
    assert "the token 272 is outside" in str(ended.error)
    engine.admit(good)
    assert finish(engine) == [good]


def test_a_job_that_outgrows_its_slot_ends_alone(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, None, cap=40, block=16, sequences=2))
    good, bad = (
        Generation(tiny, tokens(20, 3), max_new_tokens=new, sampling=GREEDY, evicts=False, ignore_eos=True)
        for new in (30, 300)
    )
    engine.admit(bad)
    engine.admit(good)
    ended = [end for _ in range(60) for end in engine.step()]
    assert [(end.job is good, end.error is None) for end in ended] == [(True, True), (False, False)]
    assert "the slot of 56 tokens is full" in str(ended[1].error)
    assert engine.free == 2


def test_a_run_raises_the_first_error_and_leaves_no_slot_taken(tiny: minseek.Model) -> None:
    engine = Engine(tiny, make_plan(tiny, "snapkv", sequences=2))
    for wrong, error in ((Failing, ZeroDivisionError), (Refusing, InputError)):
        jobs = [generation(tiny, LONG[1]), generation(tiny, LONG[0], wrong), generation(tiny, LONG[2])]
        with pytest.raises(error):
            list(engine.run(jobs))
        assert (engine.free, engine.progress.in_use) == (2, 0)
    first = next(engine.run([generation(tiny, prompt) for prompt in LONG]))
    assert first.tokens == outputs(tiny, make_plan(tiny, "snapkv"), [first.prompt])[0]
    assert engine.free == 2  # the rest was given up


# Tokens, text and log-probabilities


def generate_with_events(
    model: minseek.Model, prompt: list[int], **options: Any
) -> tuple[list[Any], minseek.engine.Completion]:
    events: list[Any] = []
    options = {"max_new_tokens": 24, "sampling": GREEDY, "ignore_eos": True, **options}
    job = Generation(model, prompt, on_token=lambda *given: events.append(given), **options)
    list(Engine(model, make_plan(model, None, cap=400)).run([job]))
    return events, job.completion()


def test_a_generation_tells_its_tokens_and_text(tiny: minseek.Model) -> None:
    prompt, whole = text_model(tiny)
    events, completion = generate_with_events(tiny, prompt)
    assert [token for token, _, _ in events if token is not None] == whole.tokens == completion.tokens
    assert "".join(text for _, text, _ in events) == whole.text == completion.text
    assert all(logprob is None for _, _, logprob in events)


@pytest.mark.parametrize("follows", [False, True])
def test_a_continuation_begins_with_its_space(
    tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    """Llama 2's tokenizer: every token is a word, and a text's first space is dropped."""
    monkeypatch.setattr(tiny, "decode", lambda tokens: "".join(f" {token}" for token in tokens)[1:], raising=False)
    prompt, space = tokens(9, 3), " " if follows else ""
    events, completion = generate_with_events(tiny, prompt, max_new_tokens=4, is_continuation=follows)
    assert completion.text == space + " ".join(map(str, completion.tokens)) == "".join(text for _, text, _ in events)
    quiet = Generation(tiny, prompt, max_new_tokens=4, sampling=GREEDY, ignore_eos=True, is_continuation=follows)
    list(Engine(tiny, make_plan(tiny, None, cap=400)).run([quiet]))
    assert quiet.completion() == completion
    (own,) = minseek.generate(tiny, [prompt], max_new_tokens=4, ignore_eos=True)
    assert own.text == " " + " ".join(map(str, own.tokens))


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_no_part_of_a_stop_string_is_emitted(tiny: minseek.Model, length: int) -> None:
    prompt, whole = text_model(tiny)
    for at in range(0, len(whole.text) - length, 3):
        stop = whole.text[at : at + length]
        if "\ufffd" in stop:
            continue
        events, completion = generate_with_events(tiny, prompt, stop=["never", stop])
        wanted = whole.text[: whole.text.index(stop)]
        assert "".join(text for _, text, _ in events) == completion.text == wanted
        assert completion.finish_reason == "stop"


def test_a_possible_stop_string_is_emitted_at_the_end(tiny: minseek.Model) -> None:
    prompt, whole = text_model(tiny)
    events, completion = generate_with_events(tiny, prompt, stop=[whole.text[-3:] + "x"])
    assert (completion.text, completion.finish_reason) == (whole.text, "length")
    assert "".join(text for _, text, _ in events) == whole.text
    assert events[-1][0] is None
    assert whole.text.endswith(events[-1][1])


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_likelihoods_are_those_of_the_raw_logits(tiny: minseek.Model, count: int) -> None:
    prompt, sampling = tokens(12, 3), minseek.Sampling(temperature=1.7, top_p=0.8, top_k=30, seed=5)
    events, completion = generate_with_events(tiny, prompt, logprobs=count, sampling=sampling)
    session = tiny.session()
    logits = session.forward(prompt)
    for token, logprob in ((token, logprob) for token, _, logprob in events if token is not None):
        wanted = logits.double().softmax(-1).log()
        assert logprob.token == token
        assert logprob.logprob == pytest.approx(float(wanted[token]), abs=1e-4)
        best = wanted.topk(count)
        assert [value for _, value in logprob.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [value for _, value in logprob.top] == pytest.approx(
            [float(wanted[i]) for i, _ in logprob.top], abs=1e-4
        )
        logits = session.forward([token])
    assert any(logprob.token not in dict(logprob.top) for _, _, logprob in events if logprob) or count == 20
    assert completion.tokens == generate_with_events(tiny, prompt, sampling=sampling)[1].tokens


def test_likelihoods_of_equal_tokens_come_in_the_order_of_their_ids() -> None:
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    given = token_logprob(logits, 3, 20)
    assert isinstance(given, TokenLogprob)
    assert [token for token, _ in given.top] == [1, 2, 4, 0, 3]
    assert sum(torch.tensor([value for _, value in given.top]).exp()) == pytest.approx(1.0)
    assert given.logprob == given.top[-1][1]


@pytest.mark.parametrize(("wrong", "error"), [(-1, InputError), (21, InputError), (True, TypeError), ("3", TypeError)])
def test_a_wrong_number_of_likelihoods_is_refused(tiny: minseek.Model, wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"logprobs.*{wrong}"):
        Generation(tiny, [5], max_new_tokens=1, sampling=GREEDY, logprobs=wrong)
    with pytest.raises(error, match=f"logprobs.*{wrong}"):
        minseek.stream(tiny, "hello", logprobs=wrong)


# Answers


def streamed(model: minseek.Model, question: Any = "hello", **options: Any) -> tuple[list[Any], minseek.Result]:
    options = {
        "strategy": minseek.MinSeek(2),
        "limits": minseek.Limits(answer_tokens=30),
        "sampling": SAMPLED,
    } | options
    events = list(minseek.stream(model, question, **options))
    assert isinstance(events[-1], minseek.Finished)
    return [event for event in events if isinstance(event, minseek.AnswerToken)], events[-1].result


def readable(model: minseek.Model) -> tuple[str, str]:
    """A question whose answer is text, and the answer."""
    for question in (f"{n}?" for n in range(200)):
        _, result = streamed(model, question)
        if len(result.answer) > 12 and "\ufffd" not in result.answer[:10]:
            return question, result.answer
    raise AssertionError("no question makes this model answer in text")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [minseek.MinSeek(2), minseek.Standard()])
def test_a_stop_string_ends_the_answer_and_not_the_thinking(tiny: minseek.Model, strategy: Any) -> None:
    question, _ = readable(tiny)
    _, whole = streamed(tiny, question, strategy=strategy)
    for at in range(0, min(10, len(whole.answer) - 3)):
        stop = whole.answer[at : at + 3]
        if "\ufffd" in stop or not stop.strip():
            continue
        answer, result = streamed(tiny, question, strategy=strategy, stop=[stop])
        wanted = whole.answer[: whole.answer.index(stop)]
        assert result.stats.answer_ended_by == "stop"
        assert result.answer == "".join(event.text for event in answer).strip() == wanted.strip()
        assert [t.tokens for t in result.thoughts] == [t.tokens for t in whole.thoughts]
        assert result.tokens == whole.tokens[: len(result.tokens)]
    inside = next(t.text[5] for t in whole.thoughts if len(t.text) > 5)
    _, result = streamed(tiny, question, strategy=strategy, stop=[inside + "\x00never"])
    assert result.answer == whole.answer
    assert result.stats.answer_ended_by == whole.stats.answer_ended_by


def test_stop_strings_are_not_looked_for_in_the_space_before_an_answer(tiny: minseek.Model) -> None:
    run = Run(
        tiny,
        "hello",
        RunOptions(strategy=minseek.Standard(), sampling=GREEDY, limits=minseek.Limits(), stop=["\n", " x", "<|"]),
    )
    words = tiny.encode("a</think>\n\n \ngo x") + tiny.encode(" on")
    run._sampler.pick = lambda logits, banned=(): words.pop(0)  # type: ignore[method-assign]
    *_, last = run.events()
    assert isinstance(last, minseek.Finished)
    assert (last.result.answer, last.result.stats.answer_ended_by) == ("go", "stop")
    assert words == tiny.encode(" on")


@pytest.mark.parametrize("template", ["opens", "leaves", "plain"])
def test_likelihoods_of_an_answer(template: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", template)), device="cpu", dtype="float32")
    for strategy in (minseek.Standard(), minseek.MinSeek(2)):
        answer, result = streamed(model, strategy=strategy, logprobs=2)
        events = [event for event in answer if event.token is not None]
        session = model.session()
        if isinstance(strategy, minseek.Standard) and result.stats.answer_tokens:
            chain = [
                *Run(model, "hello", RunOptions(strategy=strategy, sampling=GREEDY, limits=minseek.Limits())).prompt
            ]
            chain += result.tokens[: len(result.tokens) - len(events)]
            logits = session.forward(chain)
            for event in events:
                wanted = logits.double().softmax(-1).log()
                assert event.logprob is not None
                assert event.logprob.token == event.token
                assert event.logprob.logprob == pytest.approx(float(wanted[event.token]), abs=1e-4)
                assert len(event.logprob.top) == 2
                logits = session.forward([event.token])
        assert all(event.logprob is None for event in answer if event.token is None)
        silent, again = streamed(model, strategy=strategy)
        assert again.tokens == result.tokens
        assert all(event.logprob is None for event in silent)


# Conversations


def test_a_conversation_is_put_into_the_template(tiny: minseek.Model) -> None:
    options: Any = {"strategy": minseek.MinSeek(1), "sampling": SAMPLED, "limits": minseek.Limits()}
    assert tiny.decode(Run(tiny, TALK, RunOptions(**options)).prompt) == (
        "s:Be brief.\nu:Name a prime.\na:7\nu:Another?\na:<think>\n"
    )
    text = Run(tiny, "Another?", RunOptions(system="Be brief.", **options)).prompt
    assert Run(tiny, [TALK[0], TALK[3]], RunOptions(**options)).prompt == text
    noisy = [{**message, "reasoning_content": "hm"} for message in TALK]
    assert Run(tiny, noisy, RunOptions(**options)).prompt == Run(tiny, TALK, RunOptions(**options)).prompt
    one = minseek.reason(tiny, [{"role": "user", "content": "hello"}], **options)
    assert one.tokens == minseek.reason(tiny, "hello", **options).tokens


@pytest.mark.parametrize("content", ["<think>", "x</think>y", "a"])
def test_earlier_messages_do_not_open_thinking(content: str, tmp_path: Path) -> None:
    leaves = minseek.load(str(save(tmp_path, "llama", "leaves")), device="cpu", dtype="float32")
    talk = [{"role": "user", "content": content}, {"role": "assistant", "content": content}, TALK[3]]
    options: Any = {"sampling": SAMPLED, "limits": minseek.Limits()}
    assert Run(leaves, talk, RunOptions(strategy=minseek.MinSeek(1), **options)).prompt[-1] == 257
    assert Run(leaves, talk, RunOptions(strategy=minseek.Standard(), **options)).prompt[-1] != 257


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([], "there are no messages"),
        (["hello"], "message 0 must have a role and a content, and is 'hello'"),
        ([{"role": "user"}], "the content of message 0 must be a text, not None"),
        ([{"role": "user", "content": 5}], "the content of message 0 must be a text, not 5"),
        ([{"content": "hello"}], "the role of message 0 must be one of system, user, assistant, not None"),
        ([{"role": "tool", "content": "x"}], "the role of message 0 must be one of .*, not 'tool'"),
        (TALK[:3], "the last message must be the user's, and its role is 'assistant'"),
        ([{"role": "user", "content": " \n"}], "the last message is empty"),
    ],
)
def test_a_wrong_conversation_is_refused_in_one_sentence(tiny: minseek.Model, wrong: Any, sentence: str) -> None:
    plan = make_plan(tiny, None, cap=200)
    for refused in (lambda: minseek.stream(tiny, wrong), lambda: ThinkingJob(tiny, wrong, plan=plan)):
        with pytest.raises(InputError, match=f"^{sentence}"):
            refused()
    with pytest.raises(InputError, match="system has no effect with messages"):
        minseek.stream(tiny, TALK, system="Be brief.")


# No thinking at all


@pytest.mark.parametrize("strategy", [minseek.Standard(), minseek.MinSeek(3), minseek.BudgetForcing(None)])
@pytest.mark.parametrize("template", ["opens", "leaves", "plain"])
def test_a_thinking_budget_of_nothing_gives_the_answer_at_once(template: str, strategy: Any, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", template)), device="cpu", dtype="float32")
    limits = minseek.Limits(thinking_budget=0, answer_tokens=30)
    run = Run(model, "hello", RunOptions(strategy=strategy, sampling=GREEDY, limits=limits))
    events = list(run.events())
    assert {type(event) for event in events} == {minseek.AnswerToken, minseek.Finished}
    assert isinstance(events[-1], minseek.Finished)
    result = events[-1].result
    assert result.thoughts == []
    assert (result.stats.thinking_tokens, result.stats.thoughts, result.stats.ended_by) == (0, 0, "thinking-budget")
    assert result.stats.answer_tokens > 0
    written = {"opens": "u:hello\na:<think>\n</think>", "leaves": "u:hello\na:<think></think>", "plain": "u:hello\na:"}
    chain = model.encode(written[template])
    closing = [] if template == "plain" else [258]
    assert run.prompt + closing == chain
    assert result.tokens[: len(closing)] == closing
    (plain,) = minseek.generate(model, [chain], max_new_tokens=30)  # the model's continuation of exactly that
    assert result.tokens[len(closing) :] == plain.tokens
    assert result.answer == plain.text.strip()


def test_without_thinking_the_whole_budget_is_the_answers(tiny: minseek.Model) -> None:
    limits = minseek.Limits(thinking_budget=0, kv_budget=40 * tiny.token_bytes())
    run = Run(tiny, "hello", RunOptions(strategy=minseek.Standard(), sampling=GREEDY, limits=limits))
    *_, last = run.events()
    assert isinstance(last, minseek.Finished)
    stats = last.result.stats
    assert stats.kv_tokens_peak == 40 or stats.answer_ended_by == "end"
    with pytest.raises(InputError, match="holds 40 tokens"):
        minseek.stream(tiny, "hello, " * 2, limits=minseek.Limits(kv_budget=40 * tiny.token_bytes()))


@pytest.mark.parametrize("total", [1, 2, 3, 8, 30, 90])
@pytest.mark.parametrize("template", ["opens", "leaves", "plain"])
def test_thinking_and_answer_share_a_number_of_tokens(template: str, total: int, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path, "llama", template, closes=0.0)), device="cpu", dtype="float32")
    used_up = 0
    for strategy in (minseek.Standard(), minseek.MinSeek(None), minseek.BudgetForcing(3)):
        for own in ({}, {"thinking_budget": 5}, {"answer_tokens": 4}, {"max_thought_tokens": 6}):
            limits = minseek.Limits(total_tokens=total, **own)
            _, result = streamed(model, strategy=strategy, limits=limits)
            stats, reserved = result.stats, min(limits.answer_tokens, max(1, total // 4))
            thinking = min(total - reserved, limits.thinking_budget or total)
            answer = min(limits.answer_tokens, total - stats.thinking_tokens)
            assert stats.thinking_tokens <= thinking
            assert stats.answer_tokens <= answer
            assert (stats.answer_ended_by == "answer-tokens") == (stats.answer_tokens == answer)
            assert stats.tokens <= total
            used_up += stats.tokens == total
            assert len([token for thought in result.thoughts for token in thought.tokens]) == stats.thinking_tokens
    assert used_up


# In slots


def test_a_thinking_job_tells_the_events_of_the_run(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40)
    limits = minseek.Limits(answer_tokens=10, max_thought_tokens=40)
    options: Any = {"strategy": minseek.MinSeek(3), "sampling": SAMPLED, "limits": limits, "logprobs": 1}
    events: list[Any] = []
    job = ThinkingJob(tiny, TALK, RunOptions(**options), plan=plan, on_event=events.append)
    list(Engine(tiny, plan).run([job, *(generation(tiny, LONG[0]) for _ in range(3))]))
    alone = list(minseek.stream(tiny, TALK, **options))
    assert [type(event) for event in events] == [type(event) for event in alone]
    for ours, theirs in zip(events[:-1], alone[:-1], strict=True):
        if isinstance(ours, minseek.AnswerToken):
            assert (ours.token, ours.text, ours.cached) == (theirs.token, theirs.text, theirs.cached)  # type: ignore
        else:
            assert ours == theirs
    assert events[-1].result is job.result()


def test_an_error_in_the_event_callback_ends_the_job(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40, sequences=2)
    engine = Engine(tiny, plan)

    def refuse(event: Any) -> None:
        if isinstance(event, minseek.ThoughtEnded):
            raise ConnectionError("no listener")

    bad = ThinkingJob(tiny, "hello", RunOptions(sampling=SAMPLED), plan=plan, on_event=refuse)
    good = ThinkingJob(tiny, "Why?", RunOptions(sampling=SAMPLED), plan=plan)
    engine.admit(bad)
    engine.admit(good)
    ended = []
    while engine.free < 2:
        ended += engine.step()
    assert {id(end.job): type(end.error) for end in ended} == {id(bad): ConnectionError, id(good): type(None)}
