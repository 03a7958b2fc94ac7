"""Runs for which no strategy was chosen, and answers that are empty."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.cli import main
from minseek.decode import Sampler
from minseek.models.loading.recommended import read_recommended
from minseek.reasoning.defaults import PLAIN_THOUGHT_TOKENS, DefaultStrategy, choose_default
from tests.helpers.scripted import Scripted
from tests.helpers.tiny_models import save

SAMPLED = minseek.Sampling(temperature=1.0, top_p=1.0, seed=7)


@pytest.fixture(scope="module")
def plain(tiny_folders: dict[str, Path]) -> minseek.Model:
    return minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32", thinking="plain")


def test_the_default_strategy_is_the_papers_or_the_models_own_way(tiny: minseek.Model, plain: minseek.Model) -> None:
    assert choose_default(tiny).strategy == minseek.MinSeek(10)
    assert "2601.09855" in choose_default(tiny).evidence
    assert choose_default(plain).strategy == minseek.Standard()
    assert not choose_default(plain).is_measured


def recommending(folder: Path, content: Any) -> minseek.Model:
    """A model with a file that recommends a strategy."""
    save(folder, "llama", "opens")
    (folder / "thinking.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return minseek.load(str(folder), device="cpu", dtype="float32")


RECOMMENDED = {"format": "think", "strategy": "min-seek", "options": {"thoughts": 2, "rule": "latest"}, "evidence": "x"}


def test_a_models_default_is_what_its_evidence_recommends(tmp_path: Path) -> None:
    model = recommending(tmp_path, RECOMMENDED)
    assert choose_default(model) == DefaultStrategy(minseek.MinSeek(2, rule="latest"), "x", is_measured=True)
    ours = minseek.reason(model, "hello", sampling=SAMPLED)
    theirs = minseek.reason(model, "hello", sampling=SAMPLED, strategy=minseek.MinSeek(2, rule="latest"))
    assert (ours.thoughts, ours.tokens) == (theirs.thoughts, theirs.tokens)
    plain = minseek.load(str(tmp_path), device="cpu", dtype="float32", thinking="plain")
    assert choose_default(plain).strategy == minseek.Standard()  # it was measured with tags


def test_tiny_comes_with_its_evidence() -> None:
    model = minseek.load("tiny")
    default = choose_default(model)
    assert default.strategy == minseek.FreshThoughts(10)
    assert default.is_measured
    page, heading = default.evidence.split(", ")
    text = (Path(__file__).parents[2] / page).read_text().lower()
    assert re.search(rf"^#+ .*{heading}", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "is no recommended strategy"),
        ({"strategy": "fresh"}, "is no recommended strategy"),
        (RECOMMENDED | {"more": 1}, "is no recommended strategy"),
        (RECOMMENDED | {"evidence": 1}, "is no recommended strategy"),
        (RECOMMENDED | {"strategy": "best"}, "recommends the unknown strategy 'best'"),
        (RECOMMENDED | {"options": {"thoughts": -1}}, "wrong: thoughts must be .* not -1"),
        (RECOMMENDED | {"options": {"depth": 1}}, "wrong: .*depth"),
    ],
)
def test_a_wrong_recommendation_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(minseek.InputError, match=rf"thinking\.json.*{message}|{message}.*thinking\.json"):
        choose_default(recommending(tmp_path, content))


def test_a_recommendation_lies_beside_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "some.Q4_K_M.gguf"
    assert read_recommended(file) is None
    (tmp_path / "some.Q4_K_M.thinking.json").write_text(json.dumps(RECOMMENDED))
    found = read_recommended(file)
    assert found is not None
    assert (found.strategy, found.options) == ("min-seek", {"thoughts": 2, "rule": "latest"})


def test_the_output_says_strategy_and_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recommending(tmp_path, RECOMMENDED)
    given = ["reason", "hello", "-m", str(tmp_path), "--dtype", "float32", "--device", "cpu", "--seed", "3"]
    assert main([*given, "--json"]) == 0
    shown = capsys.readouterr()
    line = "minseek: the strategy is min-seek, rule latest, M = 2 (x); --strategy chooses another"
    assert line in shown.err.splitlines()
    report = json.loads(shown.out)
    assert (report["strategy"], report["evidence"]) == ("min-seek", "x")
    assert report["strategy_options"]["rule"] == "latest"


@pytest.mark.parametrize(
    ("flags", "strategy"),
    [
        (["--thoughts", "3"], {"thoughts": 3, "rule": "latest"}),
        (["--strategy", "min-seek"], {"thoughts": 10, "rule": "shortest"}),
        (["--keep", "2"], {"keep": 2, "rule": "latest"}),
        (["--strategy", "fresh", "--thoughts", "1"], {"thoughts": 1}),
    ],
)
def test_flags_change_the_default_or_name_another(
    flags: list[str], strategy: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommending(tmp_path, RECOMMENDED)
    given = ["reason", "hello", "-m", str(tmp_path), "--dtype", "float32", "--device", "cpu", "--seed", "3", "-R"]
    assert main([*given, "--json", *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert strategy.items() <= report["strategy_options"].items()
    assert report["evidence"] is None


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
