"""Thoughts and answers that repeat themselves end; nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest

import minseek
from minseek.decode.loops import MIN_TOKENS
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from tests.helpers.scripted import Scripted

SENTENCE = "Let me count the days again, so there are 7 of them. "
HEAD = "A week begins:"
ENDLESS = HEAD + SENTENCE * 40
FOUND = len(HEAD) + 3 * len(SENTENCE)  # bytes are the tokens of these models
FIRST_ROUND = HEAD + SENTENCE


def scripted(model: minseek.Model, *texts: str) -> Scripted:
    """Texts of which an endless one is given up to the token where its loop is found."""
    assert 3 * len(SENTENCE) > MIN_TOKENS
    return Scripted(model, [text[:FOUND] if text == ENDLESS else text for text in texts])


def test_a_loop_ends_a_thought_which_is_never_kept(tiny: minseek.Model) -> None:
    script = scripted(tiny, "one</think>", ENDLESS, "a long thought</think>", ENDLESS, "short</think>", "7<|end|>")
    result = script.run(minseek.MinSeek(4))
    assert [thought.ended_by for thought in result.thoughts] == ["closed", "loop", "closed", "loop", "closed"]
    assert [thought.kept for thought in result.thoughts] == [True, False, False, False, True]
    assert (result.answer, result.stats.ended_by) == ("7", "thoughts")


@pytest.mark.parametrize("index", [0, 1])
def test_only_the_first_round_is_left_of_a_loop(tiny: minseek.Model, index: int) -> None:
    texts = ["one</think>", "two</think>", "7<|end|>"]
    texts[index] = ENDLESS
    result = scripted(tiny, *texts).run(minseek.BudgetForcing(1))
    looped = result.thoughts[index]
    assert looped.ended_by == "loop"
    assert looped.text == "Wait" * index + FIRST_ROUND == tiny.decode(looped.tokens)
    assert all(thought.kept for thought in result.thoughts)
    left = sum(thought.length for thought in result.thoughts)
    removed = FOUND - len(FIRST_ROUND)
    stats = result.stats
    assert stats.thinking_tokens == left + removed
    assert stats.kv_tokens == stats.prompt_tokens + left + 1 + stats.answer_tokens
    assert result.tokens == [*result.thoughts[0].tokens, *result.thoughts[1].tokens, 258, *tiny.encode("7")]


def test_the_cache_is_that_of_a_thought_that_was_closed_after_the_first_round(tiny: minseek.Model) -> None:
    """The answer after a loop is sampled from the same logits."""
    greedy: dict[str, Any] = {"sampling": minseek.Sampling(temperature=0), "limits": minseek.Limits(answer_tokens=30)}

    def answer(first: str) -> list[int]:
        script = scripted(tiny, first)
        run = Run(tiny, "hello", RunOptions(strategy=minseek.Standard(), **greedy))
        pick = run._sampler.pick
        run._sampler.pick = lambda logits, banned=(): (  # type: ignore[method-assign]
            script.tokens.pop(0) if script.tokens else pick(logits, banned=banned)
        )
        *_, last = run.events()
        assert isinstance(last, minseek.Finished)
        assert last.result.thoughts[0].text == FIRST_ROUND
        return last.result.tokens

    assert answer(ENDLESS) == answer(FIRST_ROUND + "</think>")


def test_a_loop_is_the_reason_if_it_ends_the_last_thought(tiny: minseek.Model) -> None:
    result = scripted(tiny, ENDLESS, "7<|end|>").run(minseek.Standard())
    assert (result.stats.ended_by, result.answer) == ("loop", "7")


def test_a_loop_ends_an_answer(tiny: minseek.Model) -> None:
    result = scripted(tiny, "one</think>", ENDLESS).run(minseek.Standard())
    assert result.stats.answer_ended_by == "loop"
    assert result.stats.answer_tokens == FOUND
    assert result.answer == ENDLESS[:FOUND].strip()


def test_a_budget_counts_the_removed_rounds(tiny: minseek.Model) -> None:
    limits = minseek.Limits(thinking_budget=FOUND + 10)
    result = scripted(tiny, ENDLESS, "123456<|end|>").run(minseek.BudgetForcing(None), limits, all_of_it=False)
    assert result.stats.thinking_tokens == FOUND + 10
    assert result.stats.ended_by == "thinking-budget"


def test_without_detection_nothing_ends(tiny: minseek.Model) -> None:
    limits = minseek.Limits(loop_detection=False, beyond_context=True)
    text = ENDLESS[:300]
    result = Scripted(tiny, [text + "</think>", text + "<|end|>"]).run(minseek.Standard(), limits)
    assert (result.thoughts[0].text, result.thoughts[0].ended_by) == (text, "closed")
    assert (result.answer, result.stats.answer_ended_by) == (text.strip(), "end")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_runs_without_loops_are_the_same_with_detection(tiny: minseek.Model, seed: int) -> None:
    sampling = minseek.Sampling(temperature=1.0, top_p=1.0, seed=seed)
    on, off = (
        minseek.reason(tiny, "hello", sampling=sampling, limits=minseek.Limits(loop_detection=detected))
        for detected in (True, False)
    )
    assert (on.tokens, on.answer, on.thoughts) == (off.tokens, off.answer, off.thoughts)
    assert all(thought.ended_by != "loop" for thought in on.thoughts)


@pytest.mark.parametrize("wrong", [None, 1, "no"])
def test_detection_is_on_or_off(wrong: Any) -> None:
    with pytest.raises(TypeError, match="loop_detection must be True or False"):
        minseek.Limits(loop_detection=wrong)
