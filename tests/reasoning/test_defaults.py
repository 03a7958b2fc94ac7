"""Runs for which no strategy was chosen, and answers that are empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.cli import main
from minseek.decode import Sampler
from minseek.reasoning.defaults import PLAIN_THOUGHT_TOKENS, default_strategy
from tests.helpers.scripted import Scripted
from tests.helpers.tiny_models import save

SAMPLED = minseek.Sampling(temperature=1.0, top_p=1.0, seed=7)


@pytest.fixture(scope="module")
def plain(tiny_folders: dict[str, Path]) -> minseek.Model:
    return minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32", thinking="plain")


def test_the_default_strategy_is_the_papers_or_the_models_own_way(tiny: minseek.Model, plain: minseek.Model) -> None:
    assert default_strategy(tiny) == minseek.MinSeek(10)
    assert default_strategy(plain) == minseek.Standard()


def test_a_default_thought_gets_an_equal_share(tiny: minseek.Model, plain: minseek.Model) -> None:
    plan = minseek.plan_run(tiny, "hello")
    assert plan.thinking_capacity is not None
    assert plan.max_thought_tokens == (plan.thinking_capacity - plan.prompt_tokens) // 3
    assert plan.max_tokens_held is not None
    assert plan.capacity is not None
    assert plan.max_tokens_held <= plan.capacity
    assert minseek.plan_run(plain, "hello").max_thought_tokens == PLAIN_THOUGHT_TOKENS
    small = minseek.Limits(kv_budget=100 * tiny.token_bytes())
    bounded = minseek.plan_run(tiny, "hello", limits=small)
    assert bounded.thinking_capacity is not None
    assert bounded.max_thought_tokens == (bounded.thinking_capacity - bounded.prompt_tokens) // 3


@pytest.mark.parametrize("seed", range(3))
def test_every_thought_of_a_default_run_is_closed(tiny: minseek.Model, seed: int) -> None:
    result = minseek.reason(tiny, "hello", sampling=minseek.Sampling(temperature=1.0, top_p=1.0, seed=seed))
    most = minseek.plan_run(tiny, "hello").max_thought_tokens
    assert len(result.thoughts) == 11
    assert all(thought.finished and thought.length <= (most or 0) for thought in result.thoughts)
    assert result.answer
    assert result.note is None


@pytest.mark.parametrize(
    ("strategy", "limits"),
    [
        (minseek.MinSeek(), {}),
        (None, {"max_thought_tokens": 500}),
        (None, {"thinking_budget": 200}),
        (None, {"total_tokens": 300}),
    ],
)
def test_explicit_settings_have_no_default_bound(tiny: minseek.Model, strategy: Any, limits: dict[str, int]) -> None:
    plan = minseek.plan_run(tiny, "hello", strategy=strategy, limits=minseek.Limits(**limits))
    assert plan.max_thought_tokens == limits.get("max_thought_tokens")


def test_a_default_run_is_the_papers_with_the_bound(tiny: minseek.Model) -> None:
    most = minseek.plan_run(tiny, "hello").max_thought_tokens
    explicit = minseek.Limits(max_thought_tokens=most)
    ours = minseek.reason(tiny, "hello", sampling=SAMPLED)
    theirs = minseek.reason(tiny, "hello", sampling=SAMPLED, strategy=minseek.MinSeek(), limits=explicit)
    assert ours.thoughts == theirs.thoughts
    assert not theirs.answer or ours.tokens == theirs.tokens


@pytest.mark.parametrize(
    ("script", "limits", "ended_by", "note"),
    [
        (["one</think>", "<|end|>"], {}, "end", "the model ended its turn at once"),
        (["one</think>", "  \n<|end|>"], {}, "end", "the model ended its turn at once"),
        (["one</think>", "    "], {"answer_tokens": 4}, "answer-tokens", "its limit of tokens"),
        (["one</think>", "ok<|end|>"], {}, "end", None),
    ],
)
def test_an_empty_answer_has_a_reason(
    tiny: minseek.Model, script: list[str], limits: dict[str, int], ended_by: str, note: str | None
) -> None:
    result = Scripted(tiny, script).run(minseek.Standard(), minseek.Limits(**limits))
    assert result.stats.answer_ended_by == ended_by
    assert (note is None) == (result.answer != "") == (result.note is None)
    assert note is None or (result.note or "").startswith(f"the answer is empty: {note}")


@pytest.fixture
def silent_model(tmp_path: Path, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that writes nothing but spaces."""
    (space,) = tiny.encode(" ")
    monkeypatch.setattr(Sampler, "pick", lambda self, logits, banned=(): space)
    return str(save(tmp_path, "llama", "opens"))


def test_an_empty_answer_is_an_error_at_the_command_line(silent_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["reason", "hello", "-m", silent_model, "--dtype", "float32", "--device", "cpu", "--strategy", "standard"]
    given += ["--max-thought-tokens", "3", "--answer-tokens", "4"]
    assert main(given) == 1
    shown = capsys.readouterr()
    assert shown.out.strip() == ""
    (line,) = [line for line in shown.err.splitlines() if "the answer is empty" in line]
    assert line.endswith("; give more --answer-tokens")
    assert main([*given, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["answer"], report["stats"]["answer_ended_by"]) == ("", "answer-tokens")
    assert report["note"].startswith("the answer is empty")
