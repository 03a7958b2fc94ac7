"""SIGTERM, a full disk, permissions, and unwritable outputs: `minseek eval`, `tune`, `quantize` and `reason`."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minseek.engine import Engine
from tests.helpers.disk import at_most

pytestmark = pytest.mark.usefixtures("one_thread")
Command = Callable[..., SimpleNamespace]


@pytest.fixture
def evaluation(tmp_path: Path) -> list[str]:
    """Arguments of a sweep of 12 trials, two at once."""
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"id": n, "prompt": "1+1?", "answer": "2"}) + "\n" for n in range(6)))
    limits = ["--max-thought-tokens", "8", "--answer-tokens", "4", "--max-tokens", "64", "--sequences", "2"]
    strategies = ["--strategy", "standard", "--strategy", "min-seek", "--thoughts", "2"]
    return ["eval", str(tasks), "-o", str(tmp_path / "out"), "--temperature", "0", *limits, *strategies]


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the sweep."""
    monkeypatch.setattr("minseek.evaluation.accuracy_plot.draw_accuracy", lambda *_: None)


def terminate_after_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM at the end of the first pass that finishes a job."""
    real = Engine._pass

    def _pass(engine: Engine) -> Any:
        gone = real(engine)
        if gone:
            os.kill(os.getpid(), signal.SIGTERM)
        return gone

    monkeypatch.setattr(Engine, "_pass", _pass)


def trials(folder: Path) -> int:
    lines = (folder / "results.jsonl").read_bytes().splitlines()
    return sum("strategy" in json.loads(line) for line in lines)


@pytest.mark.usefixtures("no_picture")
def test_sigterm_keeps_the_results_of_an_evaluation(
    tiny_command: Command, evaluation: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            terminate_after_a_result(patched)
            stopped = tiny_command(*evaluation)
        kept = trials(tmp_path / "out")
        assert stopped.code == 143
        assert 1 <= kept < 12
        assert f"interrupted after {kept} of 12 trials" in stopped.err
        assert "the same command resumes from there" in stopped.err
        assert tiny_command(*evaluation).code == 0
    finally:
        os.umask(before)
    assert trials(tmp_path / "out") == 12
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "out").iterdir()}
    assert set(modes) == {"results.jsonl", "summary.json"}
    assert set(modes.values()) == {0o640}


@pytest.mark.usefixtures("no_picture")
def test_a_full_disk_keeps_the_results_of_an_evaluation(
    tiny_command: Command, evaluation: list[str], tmp_path: Path
) -> None:
    with at_most(2500):
        stopped = tiny_command(*evaluation)
    kept = trials(tmp_path / "out")
    assert stopped.code == 1
    assert f"results.jsonl: File too large, after {kept} of 12 trials, which" in stopped.err
    assert tiny_command(*evaluation).code == 0
    assert trials(tmp_path / "out") == 12


def test_sigterm_ends_an_answer_with_143(tiny_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from minseek.models.forward.decoder import Decoder

    real, calls = Decoder.forward, []

    def forward(decoder: Decoder, *args: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(decoder, *args, **options)

    monkeypatch.setattr(Decoder, "forward", forward)
    ran = tiny_command("reason", "Why?", "-R", "--temperature", "0")
    assert ran.code == 143
    assert "interrupted in" in ran.err


def test_sigterm_while_a_model_is_loaded(tiny_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("minseek.models.load", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    ran = tiny_command("plan")
    assert ran.code == 143
    assert ran.err.endswith("minseek: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", ["eval", "tune"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_loaded(
    tiny_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the output is checked first")

    monkeypatch.setattr("minseek.models.load", fail)
    monkeypatch.setattr("minseek.tune.run.find_files", fail)
    data = tmp_path / "data.jsonl"
    data.write_text('{"id": 1, "prompt": "a", "answer": "b", "text": "c"}\n')
    for out, said in (
        (data, f"{data} is a file: give the name of a directory"),
        (data / "out", "data.jsonl"),
        (Path("/proc/out"), "/proc/out cannot be written: "),
        (Path("/proc/sys"), "/proc/sys cannot be written: "),
    ):
        ran = tiny_command(command, str(data), "-o", str(out))
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert said in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["data.jsonl"]


def test_quantize_leaves_a_whole_file_or_none(
    tiny_command: Command, tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minseek.quant import gguf_writer

    out = tmp_path / "out" / "packed.gguf"
    out.parent.mkdir()
    command = ("quantize", "-m", str(tiny_folders["llama"]), "-o", str(out), "--weights", "f16")
    real, calls = gguf_writer._write_tensor, []

    def write_tensor(*args: Any) -> None:
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(gguf_writer, "_write_tensor", write_tensor)
        stopped = tiny_command(*command)
    assert (stopped.code, list(out.parent.iterdir())) == (143, [])
    with at_most(20_000):
        full = tiny_command(*command)
    assert (full.code, list(out.parent.iterdir())) == (2, [])
    assert f"{out} could not be written: File too large" in full.err
    before = os.umask(0o027)
    try:
        assert tiny_command(*command).code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert out.stat().st_size > 20_000


def test_quantize_tries_its_output_before_it_reads_a_model(
    tiny_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the output is checked first")

    monkeypatch.setattr("minseek.models.export.quantize.plan_packing", fail)
    ran = tiny_command("quantize", "-m", "tiny", "-o", "/proc/out.gguf")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "/proc/out.gguf cannot be written: " in ran.err
