"""Reasoning runs in the slots of an engine, together with plain generation: equal to `minseek.reason` alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

import minseek
from minseek.engine import Engine, Generation, Job
from minseek.errors import InputError
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob
from tests.helpers.generation import GREEDY, LONG, make_plan, outputs

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


@pytest.mark.slow
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
    slot_limits = replace(limits, kv_budget=plan.slot.capacity * tiny.token_bytes())
    for job, question, sampling in zip(thinking, QUESTIONS, samplings, strict=True):
        alone = minseek.reason(tiny, question, strategy=strategy, sampling=sampling, limits=slot_limits)
        got = job.result()
        assert got.tokens == alone.tokens
        assert got.answer == alone.answer
        assert [(t.tokens, t.text, t.kept, t.ended_by) for t in got.thoughts] == [
            (t.tokens, t.text, t.kept, t.ended_by) for t in alone.thoughts
        ]
        of_the_run = ("seconds", "prefill_seconds", "kv_bytes_allocated")  # the memory of a slot, or of a cache
        timeless = replace(alone.stats, **{name: getattr(got.stats, name) for name in of_the_run})
        assert got.stats.kv_bytes_allocated >= got.stats.kv_bytes_peak
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
    """The slots are allocated already: a GPU reports only the memory left after them."""
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
        minseek.reason(tiny, "hello", strategy=minseek.MinSeek(), sampling=sampling, limits=limits)


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
