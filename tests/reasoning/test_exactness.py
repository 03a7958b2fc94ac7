"""Runs equal to unmodified transformers, token for token (float32, greedy)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minseek
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import render_prompt
from minseek.reasoning.answer_extraction import final_answer
from tests.helpers.reference import EndlessError, Task, budget_forcing, fresh_thoughts, generate, min_seek
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, save

GREEDY = minseek.Sampling(temperature=0)
ANSWER = 24
VARIANTS = (*ARCHITECTURES, "llama-tied", "llama-mha", "llama-biases", "qwen3-yarn", "llama-linear")
QUESTIONS = ("What is 1+1?", "hello", "Why?", "Name a prime.", "x", "2*3*5", "Is it so? Think.", "Sort: c b a")


class Pair:
    """Our model and transformers' own of the same weights, and how to call both the same way."""

    def __init__(self, variant: str, template: str, folder: Path, device: str = "cpu", closes: float = 3.0) -> None:
        self.model = minseek.load(str(save(folder, variant, template, closes=closes)), device=device, dtype="float32")
        self.reference = make_reference(variant, closes=closes)

    def task(self, question: str) -> Task:
        tokenizer = self.model.tokenizer
        prompt = encode_rendered(tokenizer, render_prompt(tokenizer, question))
        word = [tokenizer.encode(character)[0] for character in "Wait"]
        return Task(prompt, word, close=[258], stop={256, 258}, end={256}, answer=ANSWER)

    def run(self, question: str, strategy: Any, **options: Any) -> minseek.Result:
        limits = minseek.Limits(answer_tokens=ANSWER)
        return minseek.reason(self.model, question, strategy=strategy, sampling=GREEDY, limits=limits, **options)

    def compare(self, strategy: Any, oracle: Any, thoughts: int, **options: Any) -> None:
        """All thoughts and the answer, for the questions on which the random model closes its thoughts."""
        compared = 0
        for question in QUESTIONS:
            try:
                wanted, answer = oracle(self.reference, self.task(question), thoughts)
            except EndlessError:
                continue
            got = self.run(question, strategy, **options)
            assert [thought.tokens for thought in got.thoughts] == wanted
            assert got.answer == self.model.decode(answer).strip()
            assert got.stats.ended_by == "thoughts"
            compared += 1
            if compared == 3:
                return
        assert compared, "no question lets this random model close its thoughts: choose others"


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Pair(request.param, "opens", tmp_path_factory.mktemp("pair"), device, closes=6.0)


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS[:4])
def test_without_induced_thoughts_it_is_plain_generation(pair: Pair, question: str) -> None:
    wanted = generate(pair.reference, pair.task(question).prompt, {256}, 120)
    for strategy in (minseek.Standard(), minseek.MinSeek(thoughts=0), minseek.BudgetForcing(thoughts=0)):
        got = pair.run(question, strategy).tokens
        if 258 in wanted[:100]:  # it closes its thinking and answers
            assert got == wanted[: wanted.index(258) + 1 + ANSWER]
        else:  # it ends its turn while thinking, or goes on: an answer comes all the same
            assert got[: len(wanted)] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("thoughts", [1, 3])
def test_budget_forcing_equals_generation_from_the_text_so_far(pair: Pair, thoughts: int) -> None:
    pair.compare(minseek.BudgetForcing(thoughts), budget_forcing, thoughts)


@pytest.mark.slow
@pytest.mark.parametrize("thoughts", [1, 6])
@pytest.mark.parametrize("keys", ["re-rotated", "unrotated"])
def test_min_seek_equals_its_definition_on_transformers(pair: Pair, thoughts: int, keys: Any) -> None:
    pair.compare(minseek.MinSeek(thoughts), min_seek, thoughts, key_storage=keys)


@pytest.mark.parametrize(
    "sampling", [GREEDY, *(minseek.Sampling(temperature=0.9, top_p=1.0, seed=seed) for seed in range(2))], ids=str
)
def test_fresh_thoughts_equal_their_definition_on_transformers(pair: Pair, sampling: minseek.Sampling) -> None:
    compared, most, decode = 0, 5, pair.model.decode
    for question in QUESTIONS:
        try:
            wanted, answers = fresh_thoughts(pair.reference, pair.task(question), most, sampling)
        except EndlessError:
            continue
        events = list(
            minseek.stream(
                *(pair.model, question),
                strategy=minseek.FreshThoughts(most),
                sampling=sampling,
                limits=minseek.Limits(answer_tokens=ANSWER),
            )
        )
        assert isinstance(events[-1], minseek.Finished)
        got = events[-1].result
        count = len(got.thoughts)
        assert [thought.tokens for thought in got.thoughts] == wanted[:count]
        interim = [event for event in events if isinstance(event, minseek.InterimAnswer)]
        assert [event.tokens for event in interim] == answers[:count]
        texts = [final_answer(decode(answer)) for answer in answers]
        assert final_answer(got.answer) == max(texts, key=lambda text: (text != "", texts.count(text)))
        assert got.stats.ended_by == ("thoughts" if count == most + 1 else "decided")
        compared += 1
        if compared == 2:
            return
    assert compared, "no question lets this random model close its thoughts: choose others"


@pytest.mark.slow
def test_min_seek_is_budget_forcing_for_one_thought_and_parts_after_the_second(pair: Pair) -> None:
    pair.compare(minseek.MinSeek(1), budget_forcing, 1)
    for question in QUESTIONS:
        forced, sought = (pair.run(question, kind(4)) for kind in (minseek.BudgetForcing, minseek.MinSeek))
        thoughts = [[t.tokens for t in result.thoughts] for result in (forced, sought)]
        if forced.stats.ended_by == sought.stats.ended_by == "thoughts":
            assert thoughts[0][:3] == thoughts[1][:3]


def test_log_probabilities_of_thoughts_are_those_of_transformers(pair: Pair) -> None:
    strategy, rated = minseek.MinSeek(3, keep=9, rule="most-likely"), 0
    for question in QUESTIONS[:4]:
        prompt, result = pair.task(question).prompt, pair.run(question, strategy)
        text = torch.tensor([prompt + result.tokens], device=pair.reference.device)
        with torch.no_grad():
            logs = pair.reference(text).logits[0].double().log_softmax(-1)
        start = len(prompt)
        for thought in result.thoughts:
            skipped = 4 if thought.index else 0  # the word that induced it
            own = range(start + skipped, start + thought.length)
            start += thought.length
            if not own:
                assert thought.logprob is None
                continue
            wanted = sum(float(logs[at - 1, text[0, at]]) for at in own) / len(own)
            assert thought.logprob == pytest.approx(wanted, abs=1e-3)
            rated += 1
        assert all(t.logprob is None for t in pair.run(question, minseek.MinSeek(3, keep=9)).thoughts)
    assert rated


@pytest.mark.parametrize("opens", [False, True])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_that_opens_its_thinking_itself_is_left_to_do_so(kind: str, opens: bool, tmp_path: Path) -> None:
    pair = Pair(kind, "leaves", tmp_path)
    prompt = pair.task("hello").prompt
    if opens:  # whatever the random model writes first, let it be the tag
        first = generate(pair.reference, prompt, {256}, 1)[0]
        for weights in (pair.reference.lm_head.weight, pair.model.weights.lm_head):
            weights[[first, 257]] = weights[[257, first]].clone()
    wanted = generate(pair.reference, prompt, {256}, ANSWER)
    assert wanted
    assert (wanted[0] == 257) == opens
    got = pair.run("hello", minseek.Standard())
    shortest = min(len(wanted), len(got.tokens))
    assert got.tokens[:shortest] == wanted[:shortest]
    assert bool(got.thoughts) == opens
    assert "<think>" not in got.answer
    assert opens or got.answer == pair.model.decode(wanted).strip()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_plain_models_first_thought_is_its_plain_generation(kind: str, tmp_path: Path) -> None:
    pair = Pair(kind, "plain", tmp_path)
    assert pair.model.thinking is minseek.PLAIN
    wanted = generate(pair.reference, pair.task("hello").prompt, {256}, 400)
    got = pair.run("hello", minseek.Standard())
    thought = got.thoughts[0].tokens
    assert len(thought) > 0
    assert thought == wanted[: len(thought)]
    cue = pair.model.encode("\n\nFinal answer:")
    assert got.tokens[len(thought) : len(thought) + len(cue)] == cue
