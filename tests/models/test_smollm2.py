"""Exactness on a real model: SmolLM2-135M, in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import minseek
from minseek.models import alias_file
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import render_prompt
from minseek.models.loading.gguf.transformers_model import gguf_transformers_model
from tests.helpers.reference import Task, budget_forcing, generate, min_seek

pytestmark = [
    pytest.mark.slow,
    pytest.mark.smollm2,
    pytest.mark.skipif(alias_file("smollm2") is None, reason="smollm2 is not here: minseek models --get smollm2"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]
QUESTION = "What is the capital of France?"
GREEDY = minseek.Sampling(temperature=0)


@pytest.fixture(scope="module")
def model() -> minseek.Model:
    return minseek.load("smollm2", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def reference() -> Any:
    file = alias_file("smollm2")
    assert file is not None
    return gguf_transformers_model(file, torch.float32)


def task(model: minseek.Model, answer: int) -> Task:
    prompt = encode_rendered(model.tokenizer, render_prompt(model.tokenizer, QUESTION))
    word, cue = model.encode(model.thinking.induce), model.encode(model.thinking.closing)
    return Task(prompt, word, cue, stop=set(model.eos_token_ids), end=set(model.eos_token_ids), answer=answer)


def test_its_prompt_ends_where_its_words_begin(model: minseek.Model) -> None:
    assert model.thinking is minseek.PLAIN
    assert render_prompt(model.tokenizer, QUESTION).endswith(f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n")


def test_logits_equal_transformers(model: minseek.Model, reference: Any) -> None:
    ids = model.encode("The quick brown fox jumps over the lazy dog. " * 8)
    wanted = reference(torch.tensor([ids])).logits[0]
    session = model.session()
    torch.testing.assert_close(session.forward(ids[:60]), wanted[59], atol=2e-3, rtol=1e-3)
    for at in range(60, 70):
        torch.testing.assert_close(session.forward([ids[at]]), wanted[at], atol=2e-3, rtol=1e-3)


def test_without_induced_thoughts_it_is_plain_generation(model: minseek.Model, reference: Any) -> None:
    wanted = generate(reference, task(model, 0).prompt, set(model.eos_token_ids), 60)
    limits = minseek.Limits(max_thought_tokens=60, answer_tokens=4)
    got = minseek.reason(model, QUESTION, strategy=minseek.Standard(), sampling=GREEDY, limits=limits)
    assert len(wanted) > 5
    assert got.tokens[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("strategy", "oracle", "thoughts"),
    [
        (minseek.BudgetForcing(1), budget_forcing, 1),
        (minseek.MinSeek(1), budget_forcing, 1),
        (minseek.BudgetForcing(2), budget_forcing, 2),
        (minseek.MinSeek(3), min_seek, 3),
    ],
)
@pytest.mark.parametrize("key_storage", ["re-rotated", "unrotated"])
def test_runs_equal_their_definition_on_transformers(
    model: minseek.Model, reference: Any, strategy: Any, oracle: Any, thoughts: int, key_storage: Any
) -> None:
    wanted, answer = oracle(reference, task(model, 12), thoughts)
    limits = minseek.Limits(answer_tokens=12)
    got = minseek.reason(model, QUESTION, strategy=strategy, sampling=GREEDY, limits=limits, key_storage=key_storage)
    assert [thought.tokens for thought in got.thoughts] == wanted
    assert got.answer == model.decode(answer).strip()


def test_thinking_goes_beyond_the_context_inside_its_positions_and_peak(model: minseek.Model) -> None:
    weights = replace(model.weights, config=replace(model.weights.config, max_positions=192))
    small = minseek.Model("small", weights, model.tokenizer, model.placement)
    sampling = minseek.Sampling(seed=3)
    limits = minseek.Limits(max_thought_tokens=40, answer_tokens=16)
    result = minseek.reason(small, QUESTION, strategy=minseek.MinSeek(8), sampling=sampling, limits=limits)
    stats, lengths = result.stats, [thought.length for thought in result.thoughts]
    assert stats.tokens > 192 > stats.kv_tokens_peak
    first, cue = stats.prompt_tokens + lengths[0], len(model.encode(model.thinking.closing))
    assert stats.kv_tokens_peak <= first + max(lengths[1:]) + max(*lengths[1:], cue + stats.answer_tokens)


def test_a_batch_of_mixed_lengths_equals_transformers_and_itself_alone(model: minseek.Model, reference: Any) -> None:
    text = "The library opens at nine. A train leaves every hour. Nobody knows who painted the door, and nobody asks. "
    prompts = [model.encode(text * times)[:length] for times, length in ((1, 7), (3, 60), (8, 150), (2, 33), (5, 97))]
    wanted = [generate(reference, prompt, set(model.eos_token_ids), 12) for prompt in prompts]
    whole = minseek.plan(model, policy="novel-values", cap=160, block=32, kv_budget="100MB", sequences=2)
    for plan in (None, whole):  # in slots of their own, and in two that are taken again
        assert [done.tokens for done in minseek.generate(model, prompts, plan=plan, max_new_tokens=12)] == wanted
    small = minseek.plan(model, cap=64, block=16, kv_budget="100MB", sequences=3)
    together = minseek.generate(model, prompts, plan=small, max_new_tokens=12)
    alone = [minseek.generate(model, [prompt], plan=small, max_new_tokens=12)[0] for prompt in prompts]
    assert [done.tokens for done in together] == [done.tokens for done in alone]
    assert max(done.stats.evictions for done in together) > 3
