"""Penalties and biases: the arithmetic of transformers and of a NumPy oracle, over the tokens that a sequence has."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

import minseek
from minseek import InputError, Sampling
from minseek.decode import Sampler
from tests.helpers.prompts import tokens
from tests.helpers.reference import EndlessError, Task, min_seek
from tests.helpers.tiny_models import make_reference, save

VOCAB = 30
ids = st.integers(0, VOCAB - 1)
logit_lists = st.lists(st.floats(-9, 9, width=32), min_size=VOCAB, max_size=VOCAB)


def oracle(logits: Any, prompt: list[int], after: list[int], s: Sampling) -> np.ndarray:
    """Token by token, as the APIs define it."""
    changed = np.array(logits, dtype=np.float64)
    for token, bias in (s.logit_bias or {}).items():
        changed[token] += bias
    for token in {*prompt, *after}:
        changed[token] = (
            changed[token] / s.repetition_penalty if changed[token] > 0 else changed[token] * s.repetition_penalty
        )
    for token, count in Counter(after).items():
        changed[token] -= s.frequency_penalty * count + s.presence_penalty
    return changed


def adjusted(sampler: Sampler, logits: Any) -> np.ndarray:
    """The logits that the sampler sees, up to a constant, through its unfiltered probabilities."""
    weights, order = sampler.candidates(torch.tensor(logits))
    assert order.tolist() == list(range(VOCAB))
    return np.log(weights.double().numpy())


@given(logit_lists, st.lists(ids), st.lists(ids), st.floats(0.5, 2.5))
@settings(deadline=None, max_examples=60)
def test_the_repetition_penalty_is_that_of_transformers(
    logits: list[float], prompt: list[int], after: list[int], penalty: float
) -> None:
    sampler = Sampler(Sampling(temperature=1, top_p=1, repetition_penalty=penalty), prompt)
    sampler.extend(after)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    wanted = processor(torch.tensor([[*prompt, *after]], dtype=torch.long), torch.tensor([logits]))[0].double().numpy()
    assert adjusted(sampler, logits) == pytest.approx(wanted - wanted.max(), abs=1e-4)


@given(st.data(), logit_lists, st.lists(ids, max_size=8), st.dictionaries(ids, st.floats(-5, 5, width=32), max_size=4))
@settings(deadline=None, max_examples=80)
def test_all_together_over_a_sequence_that_grows_and_shrinks(
    data: st.DataObject, logits: list[float], prompt: list[int], bias: dict[int, float]
) -> None:
    s = Sampling(
        temperature=1,
        top_p=1,
        repetition_penalty=data.draw(st.sampled_from([1.0, 0.7, 1.3])),
        frequency_penalty=data.draw(st.floats(-2, 2, width=32)),
        presence_penalty=data.draw(st.floats(-2, 2, width=32)),
        logit_bias=bias,
    )
    sampler, after = Sampler(s, prompt), list[int]()
    for _ in range(data.draw(st.integers(1, 6))):
        if data.draw(st.booleans()):
            new = data.draw(st.lists(ids, max_size=6))
            sampler.extend(new)
            after += new
        else:
            start = data.draw(st.integers(0, len(after)))
            stop = data.draw(st.integers(start, len(after) + 2))
            sampler.delete(start, stop)
            del after[start:stop]
        wanted = oracle(logits, prompt, after, s)
        assert adjusted(sampler, logits) == pytest.approx(wanted - wanted.max(), abs=1e-4)


def test_a_fork_counts_for_itself() -> None:
    first = Sampler(Sampling(temperature=0, presence_penalty=2), [])
    logits = torch.tensor([3.0, 2.0, 0.0])
    first.extend([2])
    assert first.pick(logits) == 0
    second = first.fork()
    second.extend([0])
    assert (first.pick(logits), second.pick(logits)) == (0, 1)


def test_a_bias_forces_and_bans_and_a_banned_token_stays_banned() -> None:
    logits = torch.tensor([3.0, 2.0, 0.0])
    assert Sampler(Sampling(temperature=0, logit_bias={2: 100})).pick(logits) == 2
    assert Sampler(Sampling(temperature=0, logit_bias={0: -100})).pick(logits) == 1
    assert Sampler(Sampling(temperature=0, logit_bias={2: 100})).pick(logits, banned=[2]) == 0
    assert torch.equal(logits, torch.tensor([3.0, 2.0, 0.0])), "the caller's logits were changed"


def test_neutral_values_leave_the_sampler_as_it_is_without_them() -> None:
    neutral = Sampling(repetition_penalty=1, frequency_penalty=0, presence_penalty=0.0, logit_bias={})
    assert neutral.penalties([1, 2]) is None


PROMPTS = [tokens(length, 300 + length) for length in (5, 60, 33, 9)]
PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.4},
    {"frequency_penalty": 0.8},
    {"presence_penalty": -1.0, "repetition_penalty": 1.1},
    {},
]


@pytest.fixture(scope="module")
def reference() -> Any:
    return make_reference("llama")


@pytest.mark.parametrize("penalty", [0.8, 1.4])
def test_generation_with_a_repetition_penalty_equals_that_of_transformers(
    tiny: minseek.Model, reference: Any, penalty: float
) -> None:
    s = Sampling(temperature=0, repetition_penalty=penalty)
    for prompt, out in zip(PROMPTS, minseek.generate(tiny, PROMPTS, sampling=s, max_new_tokens=40), strict=True):
        wanted = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=40,
            repetition_penalty=penalty,
        )[0, len(prompt) :].tolist()
        assert out.tokens == [token for token in wanted if token != 256]


def test_penalties_are_batch_invariant_and_each_prompts_own(tiny: minseek.Model) -> None:
    samplings = [Sampling(temperature=0.9, seed=index, **options) for index, options in enumerate(PENALTIES)]
    together = minseek.generate(tiny, PROMPTS, sampling=samplings, max_new_tokens=40, ignore_eos=True)
    for prompt, sampling, out in zip(PROMPTS, samplings, together, strict=True):
        alone = minseek.generate(tiny, [prompt], sampling=sampling, max_new_tokens=40, ignore_eos=True)
        assert out.tokens == alone[0].tokens
    plain = minseek.generate(
        tiny,
        PROMPTS,
        sampling=[Sampling(temperature=0.9, seed=n) for n in range(4)],
        max_new_tokens=40,
        ignore_eos=True,
    )
    assert [out.tokens == without.tokens for out, without in zip(together, plain, strict=True)] == [*[False] * 3, True]


@pytest.mark.parametrize("options", [{"frequency_penalty": 0.3}, {"presence_penalty": 1.0, "repetition_penalty": 1.2}])
def test_a_dropped_thought_is_not_penalized(tmp_path: Path, options: dict[str, Any]) -> None:
    model = minseek.load(str(save(tmp_path, "llama", "opens", closes=6.0)), device="cpu", dtype="float32")
    reference, s = make_reference("llama", closes=6.0), Sampling(temperature=0, **options)
    word, compared = model.encode("Wait"), 0
    for question in ("What is 1+1?", "hello", "Why?", "x", "2*3*5", "Name a prime.", "Sort: c b a"):
        prompt = model.tokenizer.encode(f"u:{question}\na:<think>\n")
        task = Task(prompt, word, close=[258], stop={256, 258}, end={256}, answer=12)
        try:
            wanted, answer = min_seek(
                reference, task, 4, lambda *given: torch.from_numpy(oracle(given[0].numpy(), given[1], given[2], s))
            )
        except EndlessError:
            continue
        got = minseek.reason(
            model, question, strategy=minseek.MinSeek(4), sampling=s, limits=minseek.Limits(answer_tokens=12)
        )
        assert [thought.tokens for thought in got.thoughts] == wanted
        assert got.answer == model.decode(answer).strip()
        assert not all(thought.kept for thought in got.thoughts)
        compared += 1
    assert compared, "no question lets this random model close its thoughts: choose others"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("repetition_penalty", v) for v in (0, -1.0, float("inf"), float("nan"))),
        *(("frequency_penalty", v) for v in (-2.1, 3, float("nan"))),
        *(("presence_penalty", v) for v in (-2.1, 3, float("nan"))),
        *(("repetition_penalty", v) for v in ("1", None, True)),
        *(("logit_bias", v) for v in ([1], {1: 101}, {1: float("nan")}, {"1": 2}, {1: "a"})),
    ],
)
def test_a_wrong_penalty_is_refused_and_named(field: str, value: Any) -> None:
    shown = next(iter(value.values())) if isinstance(value, dict) and 1 in value else value
    shown = next(iter(value)) if isinstance(value, dict) and "1" in value else shown
    with pytest.raises((TypeError, InputError), match=rf"{field}.*not {re.escape(repr(shown))}$"):
        Sampling(**{field: value})


def test_a_bias_outside_the_vocabulary_is_refused_before_anything_runs(tiny: minseek.Model) -> None:
    wrong = Sampling(logit_bias={10**6: 1})
    for call in (
        lambda: minseek.generate(tiny, ["a"], sampling=wrong),
        lambda: minseek.stream(tiny, "a", sampling=wrong),
    ):
        with pytest.raises(InputError, match=r"the token 1000000 of logit_bias is outside the model's vocabulary"):
            call()


@pytest.mark.parametrize("penalty", [0, -1, 5e-324, 0.009, 101, float("inf"), float("nan")])
def test_a_repetition_penalty_that_no_logit_survives_is_refused(penalty: float) -> None:
    with pytest.raises(InputError, match=f"repetition_penalty must be between 0.01 and 100 .* not {penalty}"):
        Sampling(repetition_penalty=penalty)
    logits = torch.tensor([1e4, 5.0, -1e4])
    for allowed in (0.01, 100):
        assert Sampler(Sampling(repetition_penalty=allowed, seed=0), [0, 1, 2]).pick(logits) in (0, 1)
