"""`generate` with token ids as lists, arrays and tensors, and results that print short."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import pytest
import torch

import minseek
from minseek.reasoning import Result, Stats, Thought

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = [[5, 6, 7, 8], [9, 10, 11, 12]]


@pytest.mark.parametrize(
    "prompts",
    [
        np.array(IDS),
        np.array(IDS, dtype=np.uint16)[:, ::1],
        np.asfortranarray(np.array(IDS, dtype=">i4")),
        torch.tensor(IDS),
        torch.tensor(IDS, dtype=torch.int32).T.contiguous().T,
        [np.array(IDS[0]), torch.tensor(IDS[1])],
        [list(map(np.int64, IDS[0])), tuple(IDS[1])],
        [list(torch.tensor(IDS[0])), array.array("i", IDS[1])],
        [range(5, 9), IDS[1]],
    ],
    ids=range(9),
)
def test_token_ids_of_any_kind(tiny: minseek.Model, prompts: Any) -> None:
    assert minseek.generate(tiny, prompts, max_new_tokens=4) == minseek.generate(tiny, IDS, max_new_tokens=4)


@pytest.mark.parametrize(
    "prompt",
    [
        np.array([1.5, 2.0]),
        torch.tensor([1.0]),
        np.array([[1], [2]]),
        np.array(3),
        [True],
        [1, None],
        ["a"],
        b"text",
        {},
    ],
    ids=repr,
)
def test_what_is_no_prompt_is_refused(tiny: minseek.Model, prompt: Any) -> None:
    with pytest.raises((TypeError, minseek.InputError), match="prompt"):
        minseek.generate(tiny, [prompt], max_new_tokens=2)


def test_what_a_tokenizer_returns_is_no_sequence_of_prompts(tiny: minseek.Model) -> None:
    with pytest.raises(TypeError, match="give its input_ids, without padding"):
        minseek.generate(tiny, tiny.tokenizer(["Hello"]), max_new_tokens=2)


def test_an_array_of_one_prompt_is_told_apart_from_many(tiny: minseek.Model) -> None:
    with pytest.raises(TypeError, match="prompt 0 must be a text, a sequence of token ids or a conversation, not 5"):
        minseek.generate(tiny, np.array([5, 6]), max_new_tokens=2)
    assert minseek.generate(tiny, torch.zeros(0, 4, dtype=torch.int64)) == []


def test_results_print_short(tiny: minseek.Model) -> None:
    (completion,) = minseek.generate(tiny, ["Hello"], max_new_tokens=200, ignore_eos=True)
    assert len(completion.tokens) == 200
    assert len(repr(completion)) < 420  # each of 72 characters may be escaped
    assert repr(completion).endswith(", 200 tokens, length)")
    thoughts = [Thought(n, "so " * 500, list(range(1000)), kept=n == 0) for n in range(2)]
    result = Result("The answer is 4. " * 50, thoughts, Stats(thinking_tokens=2000, seconds=1.25), list(range(3000)))
    assert repr(result) == f"Result('{('The answer is 4. ' * 50)[:71]}…', 2 thoughts, 2,000 tokens, 1.2 s)"
    assert repr(result) == str(result)
    assert repr(thoughts[1]).startswith("Thought(1: 'so so ")
    assert repr(thoughts[1]).endswith("…', 1,000 tokens, dropped, closed)")
    assert repr(Thought(0)) == "Thought(0: '', 0 tokens, kept, closed)"
