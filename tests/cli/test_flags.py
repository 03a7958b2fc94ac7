"""Flags that several commands share: the default model and its reason, and one default sampling."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

import minseek
from minseek.batch import run_file
from minseek.cli import COMMANDS, main
from minseek.cli.flag_names import with_flags
from minseek.cli.flags import add_sampling_flags, sampling_options
from minseek.cli.reason import ReasonCommand
from minseek.evaluation.eval_settings import EvalSettings
from minseek.serve.server_settings import ServerSettings
from minseek.units import format_count

SHORT = ("--max-thought-tokens", "4", "--answer-tokens", "4", "--thoughts", "1", "--seed", "0")


@pytest.fixture
def loaded(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that a command loads; all of them are `tiny`."""
    names: list[str] = []

    def load(name: str, **_: object) -> minseek.Model:
        names.append(name)
        return tiny

    monkeypatch.setattr("minseek.models.load", load)
    return names


@pytest.mark.parametrize(
    ("question", "name", "reason"),
    [
        ("Compute 1+2.", "tiny", "which was trained on questions of this kind"),
        ("How many days are in a week?", "smollm2", "the default for questions of other kinds than tiny's"),
    ],
)
def test_reason_says_which_model_answers_and_why(
    loaded: list[str], capsys: pytest.CaptureFixture[str], question: str, name: str, reason: str
) -> None:
    main(["reason", question, *SHORT, "--plan"])
    said = capsys.readouterr()
    assert loaded == [name]
    assert said.err == f"minseek: the model is {name}, {reason}; -m chooses another\n"
    assert "minseek:" not in said.out
    main(["reason", question, *SHORT, "--plan", "-m", "other"])
    assert loaded == [name, "other"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "says"),
    [("plan", True), ("plan -m other", False), ("serve --plan", True), ("serve --plan -m other", False)],
)
def test_other_commands_say_that_the_model_is_the_default(
    loaded: list[str], capsys: pytest.CaptureFixture[str], command: str, says: bool
) -> None:
    assert main(command.split()) == 0
    assert loaded == ["smollm2" if says else "other"]
    line = "minseek: the model is smollm2, the default; -m chooses another\n"
    assert capsys.readouterr().err == (line if says else "")


def test_one_default_sampling_for_everything(
    tiny: minseek.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = minseek.Sampling()
    assert (default.temperature, default.top_p) == (0.6, 0.95)
    assert ServerSettings().sampling == default
    assert EvalSettings((0,)).sampling == default
    parser = argparse.ArgumentParser()
    add_sampling_flags(parser)
    assert minseek.Sampling(**sampling_options(parser.parse_args([]))) == default
    assert minseek.Sampling(**sampling_options(parser.parse_args(["--temperature", "0"]))).temperature == 0
    seen = []
    monkeypatch.setattr("minseek.batch.api.BatchFiles.scan", lambda *args, **_: seen.append(args[2].sampling) or 1 / 0)
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, "prompt": "Hello"}) + "\n")
    with pytest.raises(ZeroDivisionError):
        run_file(tiny, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert seen == [default]


@pytest.mark.parametrize("kind", COMMANDS)
def test_commands_that_sample_name_the_default(kind: type) -> None:
    parser = argparse.ArgumentParser()
    kind().add_arguments(parser)
    for action in parser._actions:
        if action.dest == "temperature":
            assert action.default is None
            assert f"(default: {minseek.Sampling().temperature})" in str(action.help)
        elif action.dest == "top_p":
            assert f"(default: {minseek.Sampling().top_p})" in str(action.help)


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_option_has_a_help_that_says_its_default(kind: type) -> None:
    parser = argparse.ArgumentParser()
    kind().add_arguments(parser)
    for action in parser._actions:
        text = action.help
        assert text, f"{action.option_strings} has no help"
        if text in (argparse.SUPPRESS, "show this help message and exit"):
            continue
        if action.default not in (None, False) and action.nargs != 0:
            assert "(default: %(default)s)" in text, text
        text = text.replace("%(default)s", str(action.default))
        last = text.rpartition("(")[2] if text.endswith(")") else ""
        assert not last or last.startswith(("default: ", "ours")), text


def test_a_bare_command_line_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: minseek")
    assert all(kind.name in said.out for kind in COMMANDS)
    assert said.err == ""


@pytest.mark.parametrize(("count", "text"), [(0, "0 trials"), (1, "1 trial"), (2000, "2,000 trials")])
def test_counts_have_a_singular(count: int, text: str) -> None:
    assert format_count(count, "trial") == text


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("max_thought_tokens must be 1 or more, not 0", "--max-thought-tokens must be 1 or more, not 0"),
        (
            "min_thought_tokens must not be more than max_thought_tokens, not 9 and 8",
            "--min-thought-tokens must not be more than --max-thought-tokens, not 9 and 8",
        ),
        ("keep must be 1 or more, not 0", "--keep must be 1 or more, not 0"),
        ("top_p must be above 0 and at most 1, not 3.0", "--top-p must be above 0 and at most 1, not 3.0"),
        ("unknown strategy 'x': choose keep", "unknown --strategy 'x': choose keep"),
        ("vote has no effect with induce: leave it out", "--vote has no effect with --induce: leave it out"),
        ("the seed that you keep is wrong", "the seed that you keep is wrong"),
        (
            "there is no model 'my_top_p': give /data/top_p/top_p.gguf",
            "there is no model 'my_top_p': give /data/top_p/top_p.gguf",
        ),
    ],
)
def test_errors_of_the_library_name_flags(message: str, said: str) -> None:
    parser = argparse.ArgumentParser()
    ReasonCommand().add_arguments(parser)
    assert with_flags(message, parser) == said


WRONG = {
    "reason x": (
        *("max-tokens 0", "answer-tokens 0", "thinking-budget -1", "min-thought-tokens 0", "max-thought-tokens 0"),
        *("temperature -1", "top-p 3", "top-k 0", "min-p 2", "seed -1", "repetition-penalty 0", "frequency-penalty 3"),
        *("presence-penalty -3", "keep 0", "stop-when-stable 1", "thoughts -1"),
    ),
    "plan": ("cap 0", "block 0", "sequences 0"),
    "serve --plan": ("slot-tokens 5", "slots 0", "max-completion-tokens 0"),
}


@pytest.mark.parametrize(("command", "flag"), [(command, flag) for command, flags in WRONG.items() for flag in flags])
def test_a_wrong_value_is_refused_by_the_name_of_its_flag(
    loaded: list[str], capsys: pytest.CaptureFixture[str], command: str, flag: str
) -> None:
    name, value = flag.split()
    assert main([*command.split(), "-m", "tiny", f"--{name}={value}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"minseek: --{name} must ")
    assert f"not {value}" in line
