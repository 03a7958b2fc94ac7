"""`minseek tune`: output, messages, refused input, and interruptions."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest

import minseek
from minseek.cli import main
from minseek.tune.trainer import Trainer
from tests.helpers.tiny_models import save

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
Command = Callable[..., SimpleNamespace]
SHORT = ("--max-length", "32", "--gradient-accumulation-steps", "1", "--steps", "3")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("small"), "llama-tied", num_hidden_layers=2, closes=1.0)


@pytest.fixture
def command(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `minseek tune` on a text: exit code, standard output and error, and the output's folder."""
    data, out = tmp_path / "data.txt", tmp_path / "out"
    data.write_text("one two three four five six seven; " * 15)

    def run(*args: str, data: Path = data) -> SimpleNamespace:
        capfd.readouterr()
        try:
            code = main(["tune", "-m", str(small), str(data), "-o", str(out), "--device", "cpu", *args])
        except SystemExit as ended:
            code = ended.code  # type: ignore[assignment]
        printed = capfd.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    run.out = out  # type: ignore[attr-defined]
    run.data = data  # type: ignore[attr-defined]
    return run


def test_a_run_from_beginning_to_end(command: Command) -> None:
    ran = command(*SHORT, "--eval-every", "2", "--eval-share", "0.3", "--lr", "0.1", "--schedule", "linear")
    out = command.out  # type: ignore[attr-defined]
    assert (ran.code, ran.out) == (0, ""), ran.err
    assert re.search(r"^weights +\d+ KB", ran.err, re.MULTILINE)
    assert re.search(r"11 sequences of 352 tokens to learn, 5 sequences of 160 tokens held out; 14 tokens at", ran.err)
    assert ran.err.count("held-out loss") >= 4
    summary = ran.err.splitlines()[-1]
    pattern = r"3 steps, 96 tokens in [\d.]+ s; held-out loss ([\d.]+) before, ([\d.]+) after; [\d.]+ [KM]B of memory"
    found = re.search(pattern, summary)
    assert found, summary
    assert summary.endswith(f"the model is in {out}")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [
        *(("held-out", 0), ("step", 1), ("step", 2), ("held-out", 2), ("step", 3), ("held-out", 3), ("end", 3))
    ]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["tokens"] for line in steps] == [32, 64, 96]
    assert [line["learning_rate"] for line in steps] == pytest.approx([0.1, 0.1 * 2 / 3, 0.1 / 3])
    assert f"{lines[0]['held_out_loss']:.4f}" == found[1]
    assert f"{lines[-2]['held_out_loss']:.4f}" == found[2]
    assert lines[-1]["planned"] > 0
    noted = json.loads((out / "tune.json").read_text())
    assert noted["finished"] is True
    assert noted["run"]["schedule"] == "linear"
    assert noted["run"]["rounding"] == "stochastic"
    assert minseek.load(str(out), device="cpu").architecture == "llama"


def test_flags_of_earlier_versions_mean_the_same(command: Command) -> None:
    new = ("--max-length", "24", "--batch-size", "3", "--gradient-accumulation-steps", "2", "--max-grad-norm", "0.5")
    old = ("--length", "24", "--batch", "3", "--accumulate", "2", "--clip", "0.5")
    plans = [json.loads(command("--plan", "--json", *flags).out) for flags in (new, old)]
    for plan in plans:
        assert plan.pop("total_bytes") == plan.pop("interpreter_bytes") + plan["run_bytes"]  # measured: each its own
    assert plans[0] == plans[1]
    assert (plans[0]["length"], plans[0]["batch_size"]) == (24, 3)


def test_the_plan_alone(command: Command) -> None:
    printed = command("--plan", *SHORT, "--optimizer", "adamw")
    assert (printed.code, printed.err) == (0, "")
    found = json.loads(command("--plan", "--json", *SHORT, "--optimizer", "adamw").out)
    assert found["state_bytes"] == 4 * found["trained"] == 2 * found["gradient_bytes"] == 2 * found["weight_bytes"]
    parts = ("weight", "gradient", "state", "activation", "workspace")
    assert found["run_bytes"] == sum(found[f"{name}_bytes"] for name in parts)
    assert found["total_bytes"] == found["interpreter_bytes"] + found["run_bytes"]
    assert "8.00 bytes a trained parameter" in printed.out
    assert not command.out.exists()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--optimizer adam", "unknown --optimizer 'adam': choose sgd, pisgd, adamw"),
        ("--format fp8", "unknown --format 'fp8'"),
        ("--rounding up", "unknown --rounding 'up'"),
        ("--schedule step", "unknown --schedule 'step'"),
        ("--format float32 --rounding stochastic", "--rounding 'stochastic' has no effect"),
        ("--radius 0.1", "--radius has no effect with --optimizer sgd"),
        ("--samples 2 --optimizer adamw", "--samples has no effect with --optimizer adamw"),
        ("--momentum 0.9 --optimizer adamw", "--momentum has no effect"),
        ("--optimizer pisgd --radius 0", "--radius must be above 0, not 0"),
        ("--optimizer pisgd --samples 0", "--samples must be 1 or more"),
        ("--lr 0", "--lr must be above 0"),
        ("--lr nan", "--lr must be a number, not nan"),
        ("--max-grad-norm -1", "--max-grad-norm must be above 0"),
        ("--momentum 1", "--momentum must be at least 0 and below 1"),
        ("--weight-decay -1", "--weight-decay must be 0 or more"),
        ("--max-length 1", "--max-length must be 2 or more"),
        ("--max-length 513", "longer than the model's context of 512"),
        ("--batch 0", "--batch-size must be"),
        ("--accumulate 0", "--gradient-accumulation-steps must be"),
        ("--steps 0", "--steps must be"),
        ("--epochs 0", "--epochs must be above 0"),
        ("--steps 1 --epochs 1", "both set the length"),
        ("--warmup -1", "--warmup must be 0 or more"),
        ("--steps 2 --warmup 2", "2 of the run's 2 steps"),
        ("--seed -1", "--seed must be 0 or more"),
        ("--eval-share 1", "--eval-share must be at least 0 and below 1"),
        ("--eval-share 0 --eval-every 2", "--eval-every 2 has no effect"),
        ("--eval-share 0.1 --eval-data data.txt", "--eval-share has no effect with --eval-data"),
        ("--eval-data none.txt", "none.txt cannot be read"),
        ("--eval-every 0", "--eval-every must be"),
        ("--checkpoint-every 0", "--checkpoint-every must be"),
        ("--layers 2", "there is no layer 2"),
        ("--layers x", "cannot read the layers 'x'"),
        ("--memory-budget 1MB", "and the memory budget is 1.00 MB: "),
        ("--memory-budget lots", "'lots'"),
        ("--memory 1MB", "of it without the run, and the memory budget is 1.00 MB: "),
        ("--memory lots", "'lots'"),
        ("--json", "--json has no effect without --plan"),
        ("--device tpu", "'tpu'"),
        ("-m none", "no model 'none'"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(command: Command, args: str, said: str) -> None:
    ran = command("--max-length", "32", *args.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err, ran.err
    assert ran.err.splitlines()[-1].startswith("minseek: ")
    assert ran.err.count("\n") == 1, ran.err
    assert not command.out.exists()  # type: ignore[attr-defined]


def test_files_and_folders_that_cannot_be_used_are_refused(
    command: Command, small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out: Path = command.out  # type: ignore[attr-defined]
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for how in ((), ("--overwrite",)):
        ran = command(*SHORT, *how)
        assert ran.code == 2
        assert "does not hold a run of minseek tune" in ran.err
    assert [item.name for item in out.iterdir()] == ["notes.txt"]
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"text": 1}\n')
    assert "line 2 of" in command(*SHORT, data=tmp_path / "bad.jsonl").err
    assert "none.txt cannot be read" in command(*SHORT, data=tmp_path / "none.txt").err
    assert main(["tune", "-m", str(small), str(tmp_path / "data.txt")]) == 2
    assert "-o DIR is missing" in capfd.readouterr().err


def test_a_folder_belongs_to_one_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    real, numbers = Trainer.step, []

    def step(trainer: Trainer, number: int) -> tuple[float, int]:
        numbers.append(number)
        if len(numbers) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(trainer, number)

    monkeypatch.setattr(Trainer, "step", step)
    stopped = command(*SHORT)
    out = command.out  # type: ignore[attr-defined]
    assert stopped.code == 130
    assert f"interrupted after step 2 of 3, which {out} keeps: the same command resumes from there" in stopped.err
    assert (out / "checkpoint").is_dir()
    other = command(*SHORT, "--lr", "0.5", "--momentum", "0.1")
    assert other.code == 2
    assert "lr was 0.01 and is 0.5, momentum was 0.0 and is 0.1" in other.err
    done = command(*SHORT, "--checkpoint-every", "1")  # decides nothing about the weights
    assert (done.code, numbers) == (0, [0, 1, 2])
    assert [file.name for file in (out / "checkpoint").iterdir()] == ["state.pt"]
    again = command(*SHORT)
    assert again.code == 2
    assert "is finished" in again.err
    before = (out / "model.safetensors").read_bytes()
    again_from_start = command(*SHORT, "--overwrite", "--seed", "1")
    assert (again_from_start.code, numbers) == (0, [0, 1, 2, 0, 1, 2])
    assert (out / "model.safetensors").read_bytes() != before


def test_evaluation_data_of_its_own_and_one_sequence_only(command: Command, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text('{"prompt": "one two", "completion": " three"}\n' * 3)
    ran = command(*SHORT, "--eval-data", str(held))
    assert ran.code == 0
    assert "16 sequences of 512 tokens to learn, 3 sequences of 42 tokens held out" in ran.err
    short = tmp_path / "short.txt"
    short.write_text("a few words")
    alone = command(*SHORT, "--overwrite", data=short)
    assert alone.code == 0
    assert "nothing is held out" in alone.err
    assert "held-out loss" not in alone.err


# Real processes

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TERM": "xterm-256color",
}


def arguments(small: Path, data: Path, out: Path, steps: int) -> list[str]:
    given = [
        str(data),
        "-m",
        str(small),
        "-o",
        str(out),
        "--device",
        "cpu",
        "--max-length",
        "32",
        "--gradient-accumulation-steps",
        "2",
    ]
    return ["-m", "minseek", "tune", *given, "--optimizer", "pisgd", "--momentum", "0.5", "--steps", str(steps)]


def without_times(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "memory")} for line in lines]


def test_ctrl_c_a_kill_and_sigterm_leave_a_run_that_ends_as_if_nothing_had_been(small: Path, tmp_path: Path) -> None:
    data, parts, whole = tmp_path / "d.txt", tmp_path / "parts", tmp_path / "whole"
    data.write_text("one two three four five six seven; " * 15)
    begin = [sys.executable, *arguments(small, data, parts, 80)]

    def steps() -> int:
        log = parts / "log.jsonl"
        return log.read_text().count('"event": "step"') if log.exists() else 0

    def until(count: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while steps() < count:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)

    first = subprocess.Popen(begin, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(10, first)
    first.send_signal(signal.SIGINT)
    printed = first.communicate(timeout=60)[1]
    assert first.returncode == 130
    assert "Traceback" not in printed
    stopped = re.search(r"interrupted after step (\d+) of 80, which .* the same command resumes from there\n$", printed)
    assert stopped, printed
    at = int(stopped[1])
    assert 10 <= at == steps()
    second = subprocess.Popen([*begin, "--checkpoint-every", "7"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(at + 20, second)
    second.kill()
    second.communicate(timeout=60)
    third = subprocess.Popen(begin, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    until(at + 25, third)
    third.terminate()
    printed = third.communicate(timeout=60)[1]
    assert third.returncode == 143
    assert "the same command resumes from there" in printed
    assert (parts / "checkpoint").is_dir()
    assert main(arguments(small, data, parts, 80)[2:]) == 0
    assert main(arguments(small, data, whole, 80)[2:]) == 0
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert without_times(parts) == without_times(whole)


def test_ctrl_c_in_a_terminal(small: Path, tmp_path: Path) -> None:
    data = tmp_path / "d.txt"
    data.write_text("one two three four five six seven; " * 15)
    seen = io.StringIO()
    child = pexpect.spawn(
        sys.executable,
        arguments(small, data, tmp_path / "out", 5000),
        env=ENVIRONMENT,
        timeout=120,
        dimensions=(24, 160),
        encoding="utf-8",
        codec_errors="replace",
    )
    child.logfile_read = seen
    child.expect(r"step \d+ of 5000 · loss [\d.]+ · held-out loss [\d.]+ · [\d,]+ tok/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    shown = seen.getvalue()
    assert child.exitstatus == 130
    assert "stopping after this step, with a checkpoint" in shown
    assert "the same command resumes from there" in shown.replace("\r\n", "")
    assert "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back


def test_divergence_and_a_longer_run_at_the_command_line(command: Command) -> None:
    destroyed = command(*SHORT, "--lr", "1e6")
    assert destroyed.code == 2
    assert "training has diverged" in destroyed.err
    assert destroyed.err.endswith("give a smaller learning rate\n")
    assert command(*SHORT, "--overwrite").code == 0
    longer = command(*SHORT[:-1], "5")
    assert longer.code == 0
    assert "5 steps, 160 tokens" in longer.err
