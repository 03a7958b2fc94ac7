"""Thoughts that do not see each other, and the vote over their answers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minseek
from minseek import FreshThoughts, InterimAnswer, ThoughtEnded
from minseek.engine import Engine
from minseek.reasoning.answer import Answer
from minseek.reasoning.answer_extraction import final_answer
from minseek.reasoning.events import AnswerToken
from minseek.reasoning.interim import InterimAnswers
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob
from tests.helpers.generation import make_plan

LIMITS = minseek.Limits(answer_tokens=12, max_thought_tokens=40)


def sampling(seed: int, temperature: float = 1.0) -> minseek.Sampling:
    return minseek.Sampling(temperature=temperature, top_p=1.0, seed=seed)


def followed(model: minseek.Model, strategy: Any, **options: Any) -> tuple[list[Any], minseek.Result]:
    """All events of a run but the last, and its result."""
    wanted: dict[str, Any] = {"question": "hello", "sampling": sampling(3), "limits": LIMITS} | options
    *events, last = minseek.stream(model, strategy=strategy, **wanted)
    assert isinstance(last, minseek.Finished)
    return events, last.result


def answers_of(events: list[Any]) -> list[InterimAnswer]:
    return [event for event in events if isinstance(event, InterimAnswer)]


def answered(text: str) -> Answer:
    return Answer((), [AnswerToken(None, text, 0)])


@given(st.lists(st.sampled_from(["", "1", "2", "3"]), min_size=1, max_size=6), st.integers(0, 3))
@settings(max_examples=300)
def test_a_vote_is_decided_if_no_further_answers_change_it(texts: list[str], left: int) -> None:
    def winner(all_texts: list[str]) -> str:
        return max(all_texts, key=lambda text: (text != "", all_texts.count(text), -all_texts.index(text)))

    interim = InterimAnswers(FreshThoughts(), None)
    for text in texts:
        interim.add(answered(text))
    assert interim.chosen().text == winner(texts)
    futures = (more for count in range(left + 1) for more in product(["", "1", "2", "3", "new"], repeat=count))
    assert interim.decided(left) == all(winner([*texts, *more]) == winner(texts) for more in futures)
    assert not interim.decided(None)


@pytest.mark.parametrize("seed", range(4))
def test_every_thought_is_induced_after_the_first_one_alone(tiny: minseek.Model, seed: int) -> None:
    events, result = followed(tiny, FreshThoughts(6), sampling=sampling(seed))
    ended = [event for event in events if isinstance(event, ThoughtEnded)]
    first = result.stats.prompt_tokens + result.thoughts[0].length
    assert [event.cached for event in ended] == [first, *(first + t.length for t in result.thoughts[1:])]
    assert [event.dropped for event in ended] == [None, None, *range(1, len(ended) - 1)][: len(ended)]
    assert [t.index for t in result.thoughts if t.kept] == sorted({0, len(result.thoughts) - 1})
    longest = max(t.length for t in result.thoughts[1:])
    closing = 1
    assert result.stats.kv_tokens_peak <= first + longest + closing + max(len(e.tokens) for e in answers_of(events))
    assert result.stats.kv_tokens_peak <= (
        minseek.plan_run(tiny, "hello", strategy=FreshThoughts(6), limits=LIMITS).max_tokens_held or 0
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_most_frequent_answer_is_given_whether_or_not_thinking_ends_early(tiny: minseek.Model, seed: int) -> None:
    limits = minseek.Limits(answer_tokens=1, max_thought_tokens=20)  # answers of one token agree now and then
    options: dict[str, Any] = {"limits": limits, "sampling": sampling(seed, 0.5)}
    events, result = followed(tiny, FreshThoughts(8), **options)
    everything, _ = followed(tiny, FreshThoughts(8, stop_when_stable=99), **options)
    texts = [final_answer(event.answer) for event in answers_of(everything)]
    assert [final_answer(event.answer) for event in answers_of(events)] == texts[: len(answers_of(events))]
    assert final_answer(result.answer) == max(texts, key=lambda text: (text != "", texts.count(text)))


def test_an_early_end_says_that_the_vote_was_decided(tiny: minseek.Model) -> None:
    """At temperature 0 all thoughts after the first are equal, and so are their answers."""
    events, result = followed(tiny, FreshThoughts(9), sampling=minseek.Sampling(temperature=0))
    texts = [final_answer(event.answer) for event in answers_of(events)]
    assert len(set(texts[1:])) == 1
    assert result.stats.ended_by == "decided"
    assert len(texts) == (5 if texts[0] == texts[1] else 7)  # of 10; of a tie the earliest wins


def test_without_thoughts_it_is_standard(tiny: minseek.Model) -> None:
    _, none = followed(tiny, FreshThoughts(0))
    _, standard = followed(tiny, minseek.Standard())
    assert (none.tokens, none.answer, none.stats.thoughts) == (standard.tokens, standard.answer, 0)


def test_a_thought_that_is_cut_off_has_no_vote(tiny: minseek.Model) -> None:
    limits = minseek.Limits(answer_tokens=4, kv_budget=100 * tiny.token_bytes())
    cut = 0
    for seed in range(6):
        events, result = followed(tiny, FreshThoughts(6, stop_when_stable=99), limits=limits, sampling=sampling(seed))
        if not result.thoughts[0].finished:
            continue
        finished = [t.index for t in result.thoughts if t.finished]
        assert [event.index for event in answers_of(events)] == finished
        for event in events:
            if isinstance(event, ThoughtEnded) and not event.thought.finished:
                assert (event.kept, event.why) == (False, "cut off by the KV budget")
        cut += len(result.thoughts) - len(finished)
        assert result.stats.kv_tokens_peak <= 100
    assert cut


def test_in_slots_they_are_those_of_a_run_alone(tiny: minseek.Model) -> None:
    plan = make_plan(tiny, None, cap=200, block=40)
    questions = ["hello", "Why?", "x", "Name a prime.", "2*3*5"]
    jobs = [
        ThinkingJob(
            *(tiny, question),
            RunOptions(strategy=FreshThoughts(4), sampling=sampling(seed), limits=LIMITS),
            plan=plan,
        )
        for seed, question in enumerate(questions)
    ]
    list(Engine(tiny, plan).run(jobs))
    slot = minseek.Limits(answer_tokens=12, max_thought_tokens=40, kv_budget=plan.slot.capacity * tiny.token_bytes())
    for seed, (question, job) in enumerate(zip(questions, jobs, strict=True)):
        _, alone = followed(tiny, FreshThoughts(4), question=question, sampling=sampling(seed), limits=slot)
        got = job.result()
        assert (got.tokens, got.answer, got.stats.ended_by) == (alone.tokens, alone.answer, alone.stats.ended_by)
        assert [(t.tokens, t.kept) for t in got.thoughts] == [(t.tokens, t.kept) for t in alone.thoughts]
        assert got.stats.kv_tokens_peak == alone.stats.kv_tokens_peak


def test_a_model_without_tags_has_fresh_thoughts_too(tiny_folders: dict[str, Path]) -> None:
    plain = minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32", thinking="plain")
    events, result = followed(plain, FreshThoughts(3))
    assert len(answers_of(events)) == len(result.thoughts) >= 2
    assert all(t.text.strip().startswith("Wait") for t in result.thoughts[1:])
