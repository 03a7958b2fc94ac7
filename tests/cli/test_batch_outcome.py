"""`minseek batch`: exit codes, failed requests that are tried again, gzip files, a full disk, and SIGTERM."""

from __future__ import annotations

import gzip
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minseek.engine import Engine
from tests.helpers.batch_files import EVICTING, Batch, as_lines, plain
from tests.helpers.disk import at_most

pytestmark = pytest.mark.usefixtures("one_thread")
Command = Callable[..., SimpleNamespace]
WRONG = [b"{", {"id": "w"}]


@pytest.mark.parametrize(
    ("lines", "code"),
    [([], 0), (plain(2, max_tokens=2), 0), ([*WRONG, *plain(1, max_tokens=2)], 3), (WRONG, 2)],
)
def test_the_exit_code_tells_if_requests_failed_also_on_a_rerun(batch: Batch, lines: list[Any], code: int) -> None:
    first = batch(lines)
    again = batch(lines)
    assert (first.code, again.code) == (code, code)
    assert again.records == first.records
    assert ("--retry-failed" in first.err) == (code != 0)


def test_failed_requests_are_tried_again(batch: Batch) -> None:
    lines = [b"{", *plain(2, max_tokens=2), {"id": "w", "prompt": "a", "top_p": 7}, plain(1)[0]]
    first = batch(lines)
    assert (first.code, len(first.records)) == (3, 5)
    os.chmod(batch.path, 0o640)  # type: ignore[attr-defined]
    lines[3] = {"id": "w", "prompt": "a", "max_tokens": 2}
    again = batch(lines, "--retry-failed")
    assert "3 failed requests of" in again.err
    assert "1 done, 2 failed" in again.err
    assert again.code == 3
    good = [record for record in first.records if "error" not in record]
    assert again.records[:2] == good
    assert sorted(str(record["id"]) for record in again.records) == ["None", "r0", "r0", "r1", "w"]
    assert stat.S_IMODE(batch.path.stat().st_mode) == 0o640  # type: ignore[attr-defined]
    assert [file.name for file in batch.path.parent.glob("out*")] == ["out.jsonl"]  # type: ignore[attr-defined]
    done = batch(lines[1:4], "--retry-failed")
    assert (done.code, [record["id"] for record in done.records]) == (0, ["r0", "r1", "w"])


def test_a_link_to_the_results_stays_a_link(batch: Batch, tmp_path: Path) -> None:
    batch.path.symlink_to(tmp_path / "elsewhere.jsonl")  # type: ignore[attr-defined]
    batch(WRONG)
    assert batch([*WRONG, *plain(1, max_tokens=2)], "--retry-failed").code == 3
    assert batch.path.is_symlink()  # type: ignore[attr-defined]
    assert (tmp_path / "elsewhere.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("target", "flags", "said"),
    [
        ("out.jsonl", ("--retry-failed", "--overwrite"), "--retry-failed has no effect with --overwrite"),
        ("-", ("--retry-failed",), "--retry-failed has no effect on '-'"),
        ("-", ("--overwrite",), "--overwrite has no effect on '-'"),
    ],
)
def test_flags_without_effect_are_refused(
    tiny_command: Command, tmp_path: Path, target: str, flags: tuple[str, ...], said: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(as_lines(plain(1)))
    ran = tiny_command("batch", str(tmp_path / "in.jsonl"), target, *flags)
    assert ran.code == 2
    assert said in ran.err


# Gzip


@pytest.fixture
def packed(tiny_command: Command, tmp_path: Path) -> Batch:
    """`minseek batch IN.gz OUT.jsonl.gz`, and the lines of its output."""
    source, target = tmp_path / "in.bin", tmp_path / "out.jsonl.gz"

    def run(lines: list[Any], *args: str) -> SimpleNamespace:
        source.write_bytes(gzip.compress(as_lines(lines)))
        ran = tiny_command("batch", str(source), str(target), "--temperature", "0", "--top-p", "1", *args)
        ran.lines = sorted(gzip.decompress(target.read_bytes()).splitlines()) if target.exists() else None
        return ran

    run.path = target  # type: ignore[attr-defined]
    return run


def test_gzip_is_read_and_written(packed: Batch, batch: Batch) -> None:
    lines = [*plain(4, max_tokens=9), b"{"]
    ran = packed(lines)
    assert ran.code == 3, ran.err
    batch(lines)
    assert ran.lines == sorted(batch.path.read_bytes().splitlines())  # type: ignore[attr-defined]
    again = packed([*lines, {"id": "more", "prompt": "a", "max_tokens": 2}])
    assert "1 done, 0 failed" in again.err
    assert len(again.lines) == 6
    retried = packed(lines, "--retry-failed")
    assert "0 done, 1 failed" in retried.err
    assert retried.lines == sorted(ran.lines + [line for line in again.lines if b'"more"' in line])


def test_gzip_results_of_a_killed_run_are_resumed_wherever_it_stopped(packed: Batch) -> None:
    lines = plain(4, max_tokens=3)
    whole, path = packed(lines).lines, packed.path  # type: ignore[attr-defined]
    data = path.read_bytes()
    for end in range(0, len(data), 7):
        path.write_bytes(data[:end])
        again = packed(lines)
        assert again.code == 0, (end, again.err)
        assert again.lines == whole


def test_a_damaged_gzip_file_and_text_of_another_encoding_are_named_once(
    tiny_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the requests are looked at before the model is loaded")

    monkeypatch.setattr("minseek.models.load", load)
    source, lines = tmp_path / "in.jsonl", as_lines(plain(3))
    for data, said in (
        (gzip.compress(lines)[:-12], "is a damaged gzip file"),
        (gzip.compress(lines)[:20] + b"x" * 30, "is a damaged gzip file"),
        (lines.decode().encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (lines.decode().encode("utf-16-le"), "is UTF-16 text: save it as UTF-8"),
        (gzip.compress(lines.decode().encode("utf-16-be")), "is UTF-16 text: save it as UTF-8"),
    ):
        source.write_bytes(data)
        ran = tiny_command("batch", str(source), str(tmp_path / "out.jsonl"))
        assert ran.code == 2
        assert said in ran.err
        assert ran.err.count("\n") == 1
        assert not (tmp_path / "out.jsonl").exists()


def test_results_that_are_no_gzip_file_are_left_alone(packed: Batch, tiny_command: Command) -> None:
    for data in (b'{"id": 1, "text": ""}\n', gzip.compress(b"mine\n")):
        packed.path.write_bytes(data)  # type: ignore[attr-defined]
        source = packed.path.with_name("in.bin")  # type: ignore[attr-defined]
        source.write_bytes(b"")
        ran = tiny_command("batch", str(source), str(packed.path))  # type: ignore[attr-defined]
        assert (ran.code, "is not a result of minseek batch" in ran.err) == (2, True)
        assert packed.path.read_bytes() == data  # type: ignore[attr-defined]


# A full disk, files that cannot be written, and signals


@pytest.mark.parametrize(("name", "size"), [("out.jsonl", 2100), ("out.jsonl.gz", 1000)])
def test_a_full_disk_keeps_whole_lines_and_names_the_file(
    tiny_command: Command, tmp_path: Path, name: str, size: int
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / name
    source.write_bytes(as_lines(plain(30, max_tokens=40)))
    command = ("batch", str(source), str(target), "--temperature", "1", *EVICTING)
    with at_most(size):
        ran = tiny_command(*command)
    assert ran.code == 1
    assert f"{target} cannot be written: File too large, after " in ran.err
    assert ran.err.endswith("keeps: the same command resumes from there\n")
    assert "Traceback" not in ran.err
    again = tiny_command(*command)
    assert again.code == 0, again.err
    assert "was cut off" not in again.err
    data = target.read_bytes()
    assert (gzip.decompress(data) if name.endswith(".gz") else data).count(b"\n") == 30


def test_results_that_cannot_be_written_are_refused_before_a_model_is_loaded(
    tiny_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded after the check")

    monkeypatch.setattr("minseek.models.load", load)
    (tmp_path / "in.jsonl").write_bytes(as_lines(plain(1)))
    for target, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "none" / "out.jsonl", "there is no directory"),
        (Path("/proc/out.jsonl"), "/proc/out.jsonl cannot be written: "),
    ):
        ran = tiny_command("batch", str(tmp_path / "in.jsonl"), str(target))
        assert ran.code == 2
        assert said in ran.err


def test_sigterm_finishes_the_pass_and_keeps_its_results(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = Engine._pass, signal.getsignal(signal.SIGTERM)

    def _pass(engine: Engine) -> Any:
        gone = real(engine)
        if gone:
            os.kill(os.getpid(), signal.SIGTERM)
        return gone

    lines = plain(6, max_new_tokens=5)
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_pass", _pass)
        ran = batch(lines, *EVICTING)
    assert signal.getsignal(signal.SIGTERM) is before
    assert ran.code == 143
    assert 1 <= len(ran.records) <= 2
    assert f"interrupted after {len(ran.records)} of 6 requests" in ran.err
    assert batch(lines, *EVICTING).code == 0
