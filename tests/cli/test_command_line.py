"""The command line: its output, its refusals, and its results after Ctrl-C."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
import torch

import minseek
from minseek.cache.policies import POLICIES
from minseek.cli import main
from minseek.engine.plan import DEFAULT_POLICY
from minseek.models import FORMATS, VERIFIED, alias_file
from minseek.models import device as device_module
from minseek.models.device import DeviceChoice
from minseek.units import format_bytes, parse_bytes
from tests.helpers.markdown import load_script
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTION = "Why?"
SHORT = ("--thoughts", "2", "--max-thought-tokens", "8", "--answer-tokens", "8", "--seed", "0")
UNBOUNDED = (
    "--thoughts",
    "unbounded",
    "--max-tokens",
    "1000000",
    "--strategy",
    "min-seek",
    "--max-thought-tokens",
    "50",
)
TOKEN_BYTES = 3 * 2 * 2 * 16 * 4  # layers, keys and values, heads, dimension, float32
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
Ask = Callable[..., SimpleNamespace]


@pytest.fixture
def flags(tiny_folders: dict[str, Path]) -> list[str]:
    return ["-m", str(tiny_folders["llama"]), "--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ask:
    """Run `minseek` in this process: its exit code and its output, transformers' log included."""
    for handler in logging.getLogger("transformers").handlers:
        if type(handler) is logging.StreamHandler:
            monkeypatch.setattr(handler, "stream", sys.stderr)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*args: str) -> SimpleNamespace:
        capsys.readouterr()
        try:
            code = main(args)
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


@pytest.fixture
def ask(command: Ask, flags: list[str]) -> Ask:
    """`minseek reason` on the tiny Llama; later flags win over earlier ones."""

    def run(*args: str, question: str = QUESTION) -> SimpleNamespace:
        return command("reason", *flags, *args, "--", question)

    return run


def interrupted_after(monkeypatch: pytest.MonkeyPatch, kind: str, count: int) -> None:
    """Send Ctrl-C after `count` events of a kind."""
    real = minseek.reasoning.run.Run.events

    def events(run: Any) -> Iterator[Any]:
        left = count
        for event in real(run):
            yield event
            left -= type(event).__name__ == kind
            if not left:
                raise KeyboardInterrupt

    monkeypatch.setattr(minseek.reasoning.run.Run, "events", events)


# Output


def test_the_answer_is_on_stdout_and_the_reasoning_on_stderr(ask: Ask, tiny_folders: dict[str, Path]) -> None:
    ran = ask(*SHORT)
    result = minseek.reason(
        minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32"),
        QUESTION,
        strategy=minseek.MinSeek(2),
        sampling=minseek.Sampling(seed=0),
        limits=minseek.Limits(max_thought_tokens=8, answer_tokens=8),
    )
    assert ran.code == 0
    assert result.answer
    assert ran.out.strip() == result.answer
    for thought in result.thoughts:
        assert f"thought {thought.index}\n{thought.text.lstrip(chr(10))}" in ran.err
        assert thought.text not in ran.out
    assert ran.err.count("kept:") + ran.err.count("dropped:") == 3


def test_a_thought_that_is_cut_off_says_so(ask: Ask, tiny_folders: dict[str, Path]) -> None:
    model = minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32")
    given = ["--strategy", "min-seek", "--kv-budget", f"{110 * model.token_bytes()}B", "--answer-tokens", "20"]
    given += ["--temperature", "1", "--top-p", "1", "--max-tokens", "4000"]
    shown = [ask(*given, "--seed", str(seed)).err for seed in range(12)]
    alone = [err for err in shown if "  dropped: cut off by the KV budget; cache" in err]
    beside = [err for err in shown if "  dropped: cut off by the KV budget, beside what is kept; cache" in err]
    assert alone
    assert beside
    for err in beside:
        assert "minseek: thinking was ended because the KV budget was full" in err


def test_hide_reasoning_shows_none_and_the_same_answer(ask: Ask) -> None:
    shown, hidden = ask(*SHORT), ask(*SHORT, "-R")
    assert (hidden.code, hidden.out) == (0, shown.out)
    assert "thought" not in hidden.err


def test_a_dash_reads_the_question_from_stdin(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask(*SHORT)
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTION))
    read = ask(*SHORT, question="-")
    assert (read.code, read.out) == (0, expected.out)


def test_usage_tells_tokens_bytes_and_seconds(ask: Ask) -> None:
    ran = ask(*SHORT, "-R", "-u")
    assert ran.code == 0
    assert "tok/s" not in ran.out
    assert re.search(r"\d+ prompt \+ \d+ thinking \(2 induced thoughts\) \+ \d+ answer tokens in [\d.]+ s", ran.err)
    held = r"cache: at most \d+ tokens, [\d.]+ KB \([\d.]+ KB allocated\)"
    assert re.search(rf"{held}; keeping everything: \d+ tokens, [\d.]+ KB", ran.err)


def test_json_is_one_object_and_equals_reason(ask: Ask, tiny_folders: dict[str, Path]) -> None:
    penalties = ("--repetition-penalty", "1.3", "--frequency-penalty", "0.5", "--presence-penalty", "-0.5")
    sampled = ("--temperature", "0.9", "--top-k", "20", *penalties)
    ran = ask(*SHORT, "--json", "--keep", "2", "--system", "Be brief.", *sampled)
    result = minseek.reason(
        minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32"),
        QUESTION,
        strategy=minseek.MinSeek(2, keep=2),
        sampling=minseek.Sampling(0.9, 0.95, 20, 0, 0, 1.3, 0.5, -0.5),
        limits=minseek.Limits(max_thought_tokens=8, answer_tokens=8),
        system="Be brief.",
    )
    report = json.loads(ran.out)
    assert ran.code == 0
    assert report["question"] == QUESTION
    assert report["answer"] == result.answer
    wanted = [vars(thought) | {"tokens": thought.length, "token_ids": thought.tokens} for thought in result.thoughts]
    assert report["thoughts"] == wanted
    stats = {name: value for name, value in vars(result.stats).items() if "seconds" not in name}
    assert {name: report["stats"][name] for name in stats} == stats
    assert report["stats"]["tokens"] == result.stats.tokens
    assert report["stats"]["seconds"] > 0
    assert "interrupted" not in report


@pytest.mark.parametrize(
    ("given", "shown"),
    [([], ["512", "the model's context"]), (["--kv-budget", "40KB"], ["52", "39.9 KB", "the KV budget"])],
)
def test_plan_prints_the_memory_and_does_not_run(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, given: list[str], shown: list[str]
) -> None:
    monkeypatch.setattr(minseek.reasoning.run.Run, "events", lambda run: pytest.fail("it ran"))
    ran = ask("--plan", "--max-thought-tokens", "10", *given)
    assert (ran.code, ran.err) == (0, "")
    for what in ("weights", "prompt", "cache at most", "this run at most", *shown):
        assert what in ran.out


@pytest.mark.parametrize("strategy", ["min-seek", "budget-forcing", "standard"])
def test_the_same_seed_gives_the_same_output(ask: Ask, strategy: str) -> None:
    args = ("--strategy", strategy, "--max-thought-tokens", "8", "--answer-tokens", "20", "--seed")
    first, again, other = ask(*args, "3"), ask(*args, "3"), ask(*args, "4")
    assert first.code == again.code == other.code == 0
    assert (first.out, first.err) == (again.out, again.err)
    assert first.out != other.out


def test_a_plan_in_json_counts_the_process(ask: Ask) -> None:
    plan = json.loads(ask("--plan", "--json", "--kv-budget", "40KB").out)
    parts = ("interpreter_bytes", "weight_bytes", "activation_bytes", "kv_bytes")
    assert plan["total_bytes"] == sum(plan[name] for name in parts)
    assert plan["kv_bytes"] == plan["cache"]["bytes"] <= 40_000
    assert plan["weight_bytes"] == plan["weights"]["bytes"]
    assert plan["memory"] is None
    assert json.loads(ask("--plan", "--json", "--memory", "64GB").out)["memory"] == 64 * 10**9


def test_a_memory_budget_that_is_too_small_is_refused_in_one_sentence(ask: Ask) -> None:
    ran = ask("--memory", "1MB")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1].startswith("minseek: the memory budget of 1.00 MB is too small: the weights of ")
    assert "'much'" in ask("--memory", "much").err


@pytest.mark.parametrize("strategy", ["min-seek", "budget-forcing", "standard"])
def test_a_full_kv_budget_still_answers_and_is_never_exceeded(ask: Ask, strategy: str) -> None:
    args = ("--json", "--strategy", strategy, "--seed", "0", "--min-thought-tokens", "12", "--kv-budget")
    refused = ask(*args, "10KB")
    assert refused.code == 2
    said = refused.err.split("give ")[1].split(" or more")[0]
    enough = parse_bytes(said)  # for thoughts of the least length, but no longer ones
    assert ask(*args, str(enough - enough // 100 - 1)).code == 2
    ran = ask(*args, said)
    report = json.loads(ran.out)
    assert ran.code == 0
    assert report["answer"]
    assert report["stats"]["ended_by"] == "kv-budget"
    assert report["stats"]["kv_bytes_peak"] <= report["stats"]["kv_bytes_allocated"] <= enough
    assert "KV budget was full" in ran.err


def test_a_used_up_thinking_budget_still_answers(ask: Ask) -> None:
    ran = ask("--json", "--thoughts", "unbounded", "--thinking-budget", "30", "--answer-tokens", "8", "--seed", "0")
    report = json.loads(ran.out)
    assert ran.code == 0
    assert report["answer"]
    assert report["stats"]["thinking_tokens"] == 30
    assert report["stats"]["ended_by"] == "thinking-budget"
    assert "--thinking-budget" in ran.err


def test_a_thinking_budget_of_nothing_answers_at_once_and_complains_of_nothing(ask: Ask) -> None:
    ran = ask("--json", "--thinking-budget", "0", "--answer-tokens", "8", "--seed", "0")
    report = json.loads(ran.out)
    assert (ran.code, report["thoughts"], report["stats"]["thinking_tokens"]) == (0, [], 0)
    assert report["stats"]["answer_tokens"] > 0
    assert "thinking" not in ran.err


@pytest.mark.parametrize("strategy", ["min-seek", "budget-forcing"])
def test_answers_after_every_thought_may_vote_and_stop(ask: Ask, strategy: str) -> None:
    args = ("--strategy", strategy, "--thoughts", "9", "--max-thought-tokens", "8", "--answer-tokens", "1")
    plain, voted = (json.loads(ask("--json", "--seed", "0", *args, *more).out) for more in ((), ("--vote",)))
    assert [t["tokens"] for t in voted["thoughts"]] == [t["tokens"] for t in plain["thoughts"]]
    assert plain["stats"]["interim_tokens"] == 0
    assert 0 < voted["stats"]["interim_tokens"] <= 9
    ran = ask("--seed", "0", "--temperature", "0.01", "--usage", *args, "--stop-when-stable", "2")
    stopped = re.search(r"\((\d+) induced thoughts\) \+ (\d+) interim \+ \d+ answer tokens", ran.err)
    assert ran.code == 0
    assert stopped
    assert ran.err.count("answer by then: ") in (int(stopped[1]) + 1, 10)
    answers = re.findall(r"answer by then: (.*)", ran.err)
    assert len(answers) == 10 or answers[-1] == answers[-2] == " ".join(ran.out.split())


def test_zero_thoughts_are_allowed(ask: Ask) -> None:
    ran = ask("--thoughts", "0", "--max-thought-tokens", "8", "--answer-tokens", "8")
    assert ran.code == 0
    assert "thought 0" in ran.err
    assert "thought 1" not in ran.err


def test_models_lists_names_architectures_formats_and_policies(command: Ask) -> None:
    ran = command("models")
    assert (ran.code, ran.err) == (0, "")
    for what in ("smollm2", *VERIFIED, *FORMATS, "[/THINK]", *POLICIES):
        assert what in ran.out


def test_a_model_is_packed_and_answers(command: Ask, tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "packed.gguf"
    ran = command("quantize", "-m", str(tiny_folders["llama"]), "-o", str(file), "--weights", "q8_0")
    assert (ran.code, ran.out) == (0, f"{file}: {format_bytes(file.stat().st_size)}\n")
    assert "18 matrices in f16, 3 matrices in q8_0" in ran.err
    again = command("quantize", "-m", str(tiny_folders["llama"]), "-o", str(file))
    assert_refused(again, "packed.gguf exists: give another name, or overwrite it")
    short = ("--max-thought-tokens", "5", "--answer-tokens", "5", "--strategy", "standard")
    assert command("reason", "Why?", "-m", str(file), *short).code in (0, 1)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["-o", "m.bin"], "'m.bin' the ending .gguf"),
        ([], "-o is missing"),
        (["-o", "nonesuch/m.gguf"], "no directory nonesuch"),
        (["-o", "m.gguf", "--weights", "q7"], "'q7'"),
        (["-o", "m.gguf", "-m", "/nonesuch/model"], "/nonesuch/model"),
    ],
)
def test_a_wrong_request_to_quantize_is_refused(
    command: Ask, flags: list[str], value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(command("quantize", "-m", "tiny", *flags), value)
    assert not list(tmp_path.iterdir())


def test_old_copies_are_listed_and_removed(command: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "250")
    assert "old copy" not in command("env").out
    assert command("env", "--clean").out == "0 old copies removed, 0 B\n"
    for name, size in (("a-1", 3000), ("b-2", 500)):
        (tmp_path / "dense" / name).mkdir(parents=True)
        (tmp_path / "dense" / name / "model.safetensors").write_bytes(b"0" * size)
    (tmp_path / "models").mkdir()
    listed = [line for line in command("env").out.splitlines() if "old copy" in line]
    assert len(listed) == 2
    assert str(tmp_path / "dense" / "a-1") in listed[0]
    assert "3.00 KB" in listed[0]
    ran = command("env", "--clean")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("2 old copies removed, 3.50 KB\n")
    assert not list((tmp_path / "dense").iterdir())
    assert (tmp_path / "models").is_dir()


@pytest.mark.parametrize("subcommand", ["plan", "batch"])
def test_the_help_names_the_policy_that_is_the_default(
    command: Ask, subcommand: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # so that no line is broken
    (line,) = [line for line in command(subcommand, "--help").out.splitlines() if line.lstrip().startswith("--policy ")]
    assert line.endswith(f"(default: {DEFAULT_POLICY})")
    assert "minseek models" in line


def test_env_names_the_defaults_and_their_reasons(command: Ask) -> None:
    ran = command("env")
    assert (ran.code, ran.err) == (0, "")
    for what in (minseek.__version__, torch.__version__, "device", "dtype", "decoding", "because"):
        assert what in ran.out


@pytest.mark.parametrize(("graphs", "kind"), [("1", "PyTorch, in CUDA graphs"), ("0", "PyTorch")])
def test_the_environment_with_a_gpu(command: Ask, monkeypatch: pytest.MonkeyPatch, graphs: str, kind: str) -> None:
    monkeypatch.setenv("MINSEEK_CUDA_GRAPHS", graphs)
    monkeypatch.setenv("COLUMNS", "200")
    placed = DeviceChoice(torch.device("cuda", 1), torch.bfloat16, "asked for", "asked for")
    monkeypatch.setattr(device_module, "resolve_device", lambda: placed)
    (row,) = (line for line in command("env").out.splitlines() if "decoding" in line)
    assert [cell.strip() for cell in row.split("│")] == ["decoding", kind, "the weights are not in main memory"]


@pytest.mark.parametrize("args", [["--help"], ["reason", "--help"], ["models", "--help"], ["env", "-h"]])
def test_help_is_on_stdout(command: Ask, args: list[str]) -> None:
    ran = command(*args)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("usage: minseek")


def test_version(command: Ask) -> None:
    assert command("--version").out == f"minseek {minseek.__version__}\n"


# Refusals


def assert_refused(ran: SimpleNamespace, *values: str) -> None:
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert ran.err.count("\n") == 1, ran.err
    assert re.match(r"minseek( \w+)?: ", ran.err)
    assert len(ran.err) < 500, "a sentence, not a page"
    assert "Traceback" not in ran.err
    for value in values:
        assert value in ran.err


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ("-m nonesuch", "'nonesuch'"),
        ("-m /nonesuch/model.gguf", "/nonesuch/model.gguf"),
        ("-m /nonesuch/folder", "/nonesuch/folder"),
        ("-m some/unreachable", "some/unreachable"),
        ("-m=", "''"),
        ("--thoughts=-1", "-1"),
        ("--thoughts=many", "'many'"),
        ("--thoughts=1.5", "'1.5'"),
        ("--thoughts=", "''"),
        ("--stop-when-stable=1", "2 or more, not 1"),
        ("--stop-when-stable=2 --strategy=standard", "--stop-when-stable has no effect with --strategy standard"),
        ("--keep=5 --thoughts=2", "--keep 5 has no effect with --thoughts 2: give a smaller --keep or more thoughts"),
        ("--keep=20", "--keep 20 has no effect with --thoughts 10"),
        ("--vote --strategy=standard", "--vote has no effect with --strategy standard"),
        ("--keep=0", "0"),
        ("--keep=-1", "-1"),
        ("--max-tokens=0", "0"),
        ("--max-tokens=-7", "-7"),
        ("--thinking-budget=-7", "-7"),
        ("--answer-tokens=0", "0"),
        ("--answer-tokens=-7", "-7"),
        ("--max-thought-tokens=0", "0"),
        ("--max-thought-tokens=-7", "-7"),
        ("--min-thought-tokens=0", "0"),
        ("--min-thought-tokens=9 --max-thought-tokens=8", "9 and 8"),
        ("--temperature=-0.5", "-0.5"),
        ("--temperature=nan", "nan"),
        ("--temperature=inf", "inf"),
        ("--top-p=0", "0"),
        ("--top-p=1.5", "1.5"),
        ("--top-p=nan", "nan"),
        ("--top-k=0", "0"),
        ("--top-k=-3", "-3"),
        ("--min-p=-0.1", "-0.1"),
        ("--min-p=1.5", "1.5"),
        ("--seed=-1", "-1"),
        ("--seed=9223372036854775808", "9223372036854775808"),
        ("--kv-budget=1KB", "1.00 KB holds"),
        ("--kv-budget=0", "0"),
        ("--kv-budget=-5", "'-5'"),
        ("--kv-budget=12_parsecs", "'12_parsecs'"),
        ("--kv-budget=", "''"),
        pytest.param(f"--kv-budget={'9' * 400}MB", "99999", id="--kv-budget=999…MB"),
        ("--kv-budget=900000TB --beyond-context", "900"),  # more than can be addressed
        ("--format=nope", "'nope'"),
        ("--induce=", "''"),
        ("--dtype=int3", "'int3'"),
        ("--device=tpu9", "'tpu9'"),
        ("--device=cuda:99", "'cuda:99'"),
        ("--device=meta", "'meta'"),
        ("--device=vulkan", "'vulkan'"),
        ("--strategy=standard --rule=latest", "--rule"),
        ("--strategy=standard --keep=2", "--keep"),
        ("--strategy=standard --thoughts=2", "--thoughts"),
        ("--strategy=standard --induce=Hm", "--induce"),
        ("--strategy=standard --answer=direct", "--answer"),
        ("--strategy=budget-forcing --rule=latest", "--rule"),
        ("--strategy=budget-forcing --keep=2", "--keep"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line_with_its_value(ask: Ask, args: str, value: str) -> None:
    assert_refused(ask("-R", *args.split()), value)


@pytest.mark.parametrize(
    "arg",
    [
        *("--max-tokens=x", "--keep=x", "--thinking-budget=1.5", "--temperature=x", "--top-k=x", "--seed=x"),
        *("--rule=x", "--strategy=x", "--key-storage=x", "--answer=x", "--nonesuch"),
    ],
)
def test_argparse_refuses_in_one_line_with_the_value_and_the_help_to_read(ask: Ask, arg: str) -> None:
    flag, _, value = arg.partition("=")
    ran = ask(arg)
    assert_refused(ran, flag, value, "minseek reason --help")


def test_an_unknown_command_is_refused(command: Ask) -> None:
    assert_refused(command("frobnicate"), "'frobnicate'", "minseek --help")


@pytest.mark.parametrize("name", ["reason", "batch", "eval", "tune"])
def test_a_command_without_its_arguments_is_refused_in_one_line(command: Ask, name: str) -> None:
    assert_refused(command(name), f"minseek {name} --help")


def test_a_question_without_quotation_marks_is_refused_with_the_words_left_over(command: Ask) -> None:
    assert_refused(command("reason", "two", "plus", "two"), "plus two", "minseek reason --help")


def test_an_output_that_cannot_be_written_is_named(command: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "results/summary.json")

    monkeypatch.setattr("minseek.cli.models.ModelsCommand.run", fail)
    ran = command("models")
    assert (ran.code, ran.out, ran.err) == (1, "", "minseek: results/summary.json: Permission denied\n")


@pytest.mark.parametrize("name", ["reason", "batch", "serve", "plan", "eval", "tune"])
def test_every_flag_is_explained(name: str) -> None:
    parser = load_script("docs/hooks/command_pages.py").parsers()[name]
    assert not [action.option_strings for action in parser._actions if action.option_strings and not action.help]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(ask: Ask, question: str) -> None:
    assert_refused(ask(question=question), "the question is empty")


@pytest.mark.parametrize("read", [b"", b"\n", b"caf\xe9"], ids=["empty", "blank", "not UTF-8"])
def test_stdin_without_a_question_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch, read: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(read), encoding="utf-8"))
    assert_refused(ask(question="-"))


def test_a_question_that_is_not_utf8_is_refused(ask: Ask) -> None:
    assert_refused(ask(question=os.fsdecode(b"caf\xe9")), "caf")


def test_a_question_longer_than_the_context_is_refused(ask: Ask) -> None:
    assert_refused(ask(question="x" * 600), "607 tokens", "512")


@pytest.mark.parametrize("length", range(1, 7))
def test_the_kv_budget_that_is_said_to_be_enough_is_enough(ask: Ask, length: int) -> None:
    refused = ask("--kv-budget", "1KB", question="x" * length)
    said = re.search(r"give (.+) or more", refused.err)
    assert said
    enough = ask("--kv-budget", said[1], "--plan", question="x" * length)
    assert (enough.code, enough.err) == (0, "")


def _directory(tmp_path: Path) -> Path:
    return tmp_path


def _gpt2(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "vocab_size": 272}))
    return tmp_path


def _gemma3(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text", "vocab_size": 272}))
    return tmp_path


def _dynamic_rope(tmp_path: Path) -> Path:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "rope_parameters": rope}))
    return tmp_path


def _text_file(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("hello")
    return tmp_path / "notes.txt"


def _random_gguf(tmp_path: Path) -> Path:
    (tmp_path / "random.gguf").write_bytes(bytes(range(1, 256)) * 20)
    return tmp_path / "random.gguf"


def _garbled_gguf(tmp_path: Path) -> Path:
    (tmp_path / "garbled.gguf").write_bytes(b"GGUF" + bytes(range(1, 256)) * 20)
    return tmp_path / "garbled.gguf"


def _truncated_gguf(tmp_path: Path) -> Path:
    real = alias_file("smollm2")
    if real is None:
        pytest.skip("smollm2 is not here: minseek models --get smollm2")
    with real.open("rb") as stream:
        (tmp_path / "half.gguf").write_bytes(stream.read(real.stat().st_size // 2))
    return tmp_path / "half.gguf"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "value"),
    [
        (_directory, "config.json"),
        (_gpt2, "'gpt2'"),
        (_gemma3, "'gemma3_text'"),
        (_dynamic_rope, "'dynamic'"),
        (_text_file, "notes.txt"),
        (_random_gguf, "random.gguf"),
        (_garbled_gguf, "garbled.gguf"),
        (_truncated_gguf, "half.gguf"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], value: str
) -> None:
    model = make(tmp_path)
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    assert_refused(ask("-m", str(model)), value)


# Ctrl-C


def test_an_interrupted_json_run_is_valid_json_that_says_so(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_after(monkeypatch, "ThoughtEnded", 2)
    ran = ask(*SHORT, "--json")
    report = json.loads(ran.out)
    assert ran.code == 130
    assert report["interrupted"] is True
    assert [thought["index"] for thought in report["thoughts"]] == [0, 1]
    assert "interrupted in thought 2" in ran.err


def test_an_interrupted_answer_is_printed_as_far_as_it_went(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ask(*SHORT).out
    interrupted_after(monkeypatch, "AnswerToken", 6)
    ran = ask(*SHORT)
    assert ran.code == 130
    assert ran.out.endswith("\n")
    assert ran.out.strip()
    assert whole.startswith(ran.out.rstrip("\n"))
    assert "interrupted in the answer" in ran.err


# Real processes

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TERM": "xterm-256color",
}


def start(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "minseek", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )


@pytest.mark.slow
def test_as_a_process_an_unknown_model_is_refused() -> None:
    process = start("reason", QUESTION, "-m", "nonesuch")
    out, err = process.communicate(timeout=60)
    assert_refused(SimpleNamespace(code=process.returncode, out=out.decode(), err=err.decode()), "'nonesuch'")


@pytest.mark.slow
def test_as_a_process_a_run_is_the_same(ask: Ask, flags: list[str]) -> None:
    process = start("reason", QUESTION, *flags, *SHORT)
    out, err = process.communicate(timeout=60)
    here = ask(*SHORT)
    assert (process.returncode, out.decode(), err.decode()) == (here.code, here.out, here.err)


@pytest.mark.slow
@pytest.mark.parametrize("args", [("--help",), ("reason", QUESTION, "--json", "-R", *SHORT)], ids=["help", "reason"])
def test_a_reader_that_has_gone_causes_no_traceback(flags: list[str], args: tuple[str, ...]) -> None:
    process = start(*args, *(flags if len(args) > 1 else ()))
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    err = process.stderr.read().decode()
    process.wait(timeout=60)
    assert "Traceback" not in err
    assert "BrokenPipeError" not in err


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_restores_the_cursor(flags: list[str]) -> None:
    seen = io.StringIO()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "minseek", "reason", QUESTION, *flags, *UNBOUNDED, "--seed", "0"],
        env=ENVIRONMENT,
        timeout=60,
        dimensions=(24, 120),
        encoding="utf-8",
        codec_errors="replace",
    )
    child.logfile_read = seen
    child.expect(r"thought 2 · \d+ tokens · cache \d+ tokens, [\d.]+ KB · [\d.]+ tok/s")  # the live line
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    shown = seen.getvalue()
    assert child.exitstatus == 130
    assert "minseek: interrupted in thought" in shown
    assert "Traceback" not in shown
    assert HIDE in shown
    assert shown.rfind(SHOW) > shown.rfind(HIDE)


@pytest.mark.slow
def test_sigint_in_thinking_leaves_valid_json(flags: list[str]) -> None:
    process = start("reason", QUESTION, *flags, *UNBOUNDED, "--json")
    assert process.stderr
    while b"thought 2" not in (line := process.stderr.readline()):
        assert line, "it ended by itself"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    report = json.loads(out)
    assert process.returncode == 130
    assert report["interrupted"] is True
    assert len(report["thoughts"]) >= 2
    assert b"minseek: interrupted" in err
    assert b"Traceback" not in err


@pytest.mark.slow
def test_sigint_in_the_answer_leaves_what_was_answered(tmp_path: Path) -> None:
    folder = save(tmp_path, "llama", closes=0.0, max_position_embeddings=40000)  # hardly ever ends
    given = ("--strategy", "standard", "--max-thought-tokens", "5", "--answer-tokens", "20000", "--temperature", "1")
    process = start("reason", QUESTION, "-m", str(folder), "--dtype", "float32", "--device", "cpu", "--seed=0", *given)
    assert process.stdout
    first = os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert first
    assert (first + out).endswith(b"\n")
    assert b"minseek: interrupted in the answer" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "args", ["reason 2+2", "batch in out", "plan", "serve", "eval tasks.jsonl --plan", "tune setup.py --plan", "env"]
)
def test_sigint_while_torch_is_imported_ends_the_process_at_once(tmp_path: Path, args: str) -> None:
    (tmp_path / "setup.py").write_text("data of tune")
    (tmp_path / "torch.py").write_text(  # as torch does: an exception from a signal handler aborts
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(20)\n"
        "except BaseException:\n    os.abort()\n"
    )
    path = os.pathsep.join((str(tmp_path), str(Path(minseek.__file__).parent.parent)))
    done = subprocess.run(
        [sys.executable, "-m", "minseek", *args.split()],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "minseek: interrupted\n")


def test_a_renamed_command_is_refused_with_its_new_name(command: Ask) -> None:
    done = command("bench", "tasks.jsonl", "-m", "tiny")
    assert (done.code, done.err) == (2, "minseek: there is no command bench: use minseek eval\n")


def test_the_earlier_name_of_a_rule_is_accepted(command: Ask, flags: list[str]) -> None:
    done, again = (command("reason", QUESTION, *flags, *SHORT, "--rule", rule) for rule in ("likeliest", "most-likely"))
    assert (done.code, done.out) == (0, again.out)
