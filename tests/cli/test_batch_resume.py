"""`minseek batch`: runs that are interrupted, killed and resumed."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

import minseek
from minseek.cli import main
from minseek.engine import Engine
from tests.helpers.batch_files import (
    EVICTING,
    MACHINE,
    Batch,
    as_lines,
    chat,
    interrupted_after,
    plain,
    read_records,
)
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_wherever_a_run_was_stopped(
    batch: Batch, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minseek.batch.results.time.time", lambda: 1.5)
    lines = [b"nonsense", *plain(5, max_tokens=40), plain(1)[0], {"id": "w"}, chat("o", max_tokens=3), chat("p", n=2)]
    path = batch.path  # type: ignore[attr-defined]
    batch(lines, *EVICTING)
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(lines)
    for kept, end in list(enumerate([0, *ends]))[::2]:
        for torn in (0, 1, 30):
            path.write_bytes(whole[: end + torn] if end < len(whole) else whole)
            again = batch(lines, *EVICTING)
            assert again.code == 3
            assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
            assert ("was cut off" in again.err) == (torn > 0 and end < len(whole))
            assert (f"holds {kept} results" in again.err) == (kept > 0)
            done, failed = re.findall(r"(\d+) done, (\d+) failed", again.err)[0]
            assert int(done) + int(failed) == len(lines) - kept


def test_ctrl_c_keeps_finished_results_and_tells_how_to_resume(
    batch: Batch, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = plain(6, max_tokens=5)
    with monkeypatch.context() as patched:
        interrupted_after(patched, 3)
        stopped = batch(lines, *EVICTING)
    assert stopped.code == 130
    assert len(stopped.records) == 3
    assert "interrupted after 3 of 6 requests" in stopped.err
    assert "the same command resumes from there" in stopped.err
    assert "Traceback" not in stopped.err
    again = batch(lines, *EVICTING)
    assert again.code == 0
    assert again.records[:3] == stopped.records
    assert sorted(record["id"] for record in again.records) == [line["id"] for line in lines]
    names = ", ".join(repr(record["id"]) for record in stopped.records)
    assert f"out.jsonl holds 3 results, skipped: {names}\n" in again.err
    done = batch(lines, *EVICTING)
    assert (done.code, done.records) == (0, again.records)
    assert "'r4' and 1 more" in done.err or "and 1 more" in done.err
    assert "0 done, 0 failed" in done.err
    rerun = batch(lines, *EVICTING, "--overwrite", "--max-new-tokens", "3")
    assert len(rerun.records) == 6
    assert "skipped" not in rerun.err


def test_a_line_that_was_put_right_is_run(batch: Batch) -> None:
    lines: list[Any] = [b"{", *plain(1, max_tokens=2)]
    batch(lines)
    lines[0] = {"id": "new", "prompt": "x", "max_tokens": 2}
    assert [record["id"] for record in batch(lines).records] == [None, "r0", "new"]


# Real processes

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TERM": "xterm-256color",
}


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that hardly ever ends its turn."""
    return save(tmp_path_factory.mktemp("talkative"), "llama", closes=0.0)


def long_requests(folder: Path, tokens: int) -> Path:
    source = folder / "in.jsonl"
    source.write_bytes(as_lines([b"{", *plain(24, max_tokens=tokens, temperature=1, seed=3), plain(1)[0]]))
    return source


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_run_is_resumed(talkative: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, killed, whole = long_requests(tmp_path, 150), tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    flags = ["-m", str(talkative), *MACHINE, *EVICTING]
    process = subprocess.Popen(
        [sys.executable, "-m", "minseek", "batch", str(source), str(killed), *flags],
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    wait_for_lines(killed, 5)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    left = killed.read_bytes().count(b"\n")
    assert 5 <= left < 26
    with killed.open("ab") as stream:
        stream.write(b'{"id": "r9", "text": "half a li')  # as a kill in the middle of a write would leave it
    assert main(["batch", str(source), str(killed), *flags]) == 3
    err = capfd.readouterr().err
    assert f"holds {left} results" in err
    assert "was cut off" in err
    assert main(["batch", str(source), str(whole), *flags]) == 3
    assert sorted(killed.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert len(read_records(whole)) == 26


@pytest.mark.slow
def test_ctrl_c_in_a_terminal(talkative: Path, tmp_path: Path) -> None:
    source, target = long_requests(tmp_path, 1500), tmp_path / "out.jsonl"
    flags = ["-m", str(talkative), *MACHINE, *EVICTING]
    seen = io.StringIO()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "minseek", "batch", str(source), str(target), *flags],
        env=ENVIRONMENT,
        timeout=120,
        dimensions=(24, 160),
        encoding="utf-8",
        codec_errors="replace",
    )
    child.logfile_read = seen
    child.expect(r"[3-9] of 26 · 1 failed · 2 of 2 slots in use · prefill [\d,]+ tok/s · decode [\d,]+ tok/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    shown = seen.getvalue()
    assert child.exitstatus == 130
    assert "minseek: interrupted after" in shown
    assert "the same command resumes from there" in shown
    assert "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back
    assert 2 < len(read_records(target)) < 26


@pytest.mark.parametrize("times", [1, 2])
def test_results_of_the_interrupted_pass_are_kept(batch: Batch, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real, before = Engine._pass, signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pass(engine: Engine) -> Any:
        gone = real(engine)
        for _ in range(times if gone else 0):  # Ctrl-C at the very end of the first pass that finishes a request
            os.kill(os.getpid(), signal.SIGINT)
        return gone

    lines = plain(6, max_new_tokens=5)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "_pass", _pass)
            ran = batch(lines, *EVICTING)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran.code == 130
    if times == 1:
        assert 1 <= len(ran.records) <= 2
        assert f"interrupted after {len(ran.records)} of 6 requests" in ran.err
    else:  # the second one does not wait
        assert ran.records == []
    again = batch(lines, *EVICTING)
    assert again.code == 0
    assert len(again.records) == 6
