"""The README's example of long thinking comes out right, whatever the seed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import minseek
from minseek.reasoning.answer_extraction import final_answer

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("default", [False, True])
def test_its_answer_is_right_at_least_as_often_as_without_induced_thoughts(default: bool) -> None:
    found = re.search(r'minseek\.reason\(model, "(.+?)", strategy=strategy', README)
    given = re.search(r"strategy = minseek\.MinSeek\(thoughts=(\d+)\)", README)
    shown = re.search(r"print\(result\.answer\)  # (.+)", README)
    assert found
    assert given
    assert shown
    question, strategy = found[1], None if default else minseek.MinSeek(int(given[1]))
    model = minseek.load("tiny")

    def right(seed: int, strategy: minseek.Strategy | None) -> bool:
        answer = minseek.reason(model, question, strategy=strategy, sampling=minseek.Sampling(seed=seed)).answer
        return final_answer(answer) == final_answer(shown[1])

    assert str(eval(question.removeprefix("Compute ").removesuffix("."))) == final_answer(shown[1])
    induced = [right(seed, strategy) for seed in range(20)]
    without = [right(seed, minseek.Standard()) for seed in range(20)]
    assert induced[0]  # the seed that the README gives
    assert sum(induced) >= sum(without)
