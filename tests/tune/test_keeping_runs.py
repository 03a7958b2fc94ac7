"""Runs that are not lost: checkpoints by time, a full disk, and permissions of what is written."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.tune import Settings, TuneRun, checkpoint, loop, tune
from tests.helpers.tuning import FAST, weights_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]


class FullDisk:
    """Saves files as safetensors does, but leaves half a file while `full` counts down."""

    def __init__(self, real: Any, name: str, full: int) -> None:
        self._real, self._name, self.full = real, name, full

    def __call__(self, weights: Any, file: Path) -> None:
        if self.full and file.name == self._name:
            self.full -= 1
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        self._real(weights, file)


def test_a_full_disk_at_the_end_keeps_the_run(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = tmp_path / "out", Settings(**FAST)
    tune(str(small), text, tmp_path / "whole", settings, device="cpu")
    monkeypatch.setattr(checkpoint, "_save", FullDisk(checkpoint._save, "model.safetensors.new", 1))
    with pytest.raises(minseek.InputError, match=r"could not be written to .*No space left.* the same command writes"):
        tune(str(small), text, out, settings, device="cpu")
    assert not (out / "model.safetensors.new").exists()
    steps: list[int] = []
    monkeypatch.setattr("minseek.tune.trainer.Trainer.step", lambda _, step: steps.append(step))
    assert tune(str(small), text, out, settings, device="cpu").finished
    assert not steps
    assert weights_in(out) == weights_in(tmp_path / "whole")
    events = [[json.loads(line)["event"] for line in (f / "log.jsonl").open()] for f in (out, tmp_path / "whole")]
    assert events[0] == events[1]


def test_a_full_disk_in_between_is_a_warning(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_save", FullDisk(checkpoint._save, "model.safetensors", 1))
    with pytest.warns(minseek.MinseekWarning, match=r"after step 1 could not be written .* training continues"):
        assert tune(str(small), text, tmp_path / "out", Settings(**FAST), device="cpu", checkpoint_every=1).finished


def test_a_disk_without_space_for_the_model_is_refused_first(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 5, 5))  # type: ignore[attr-defined]
    with pytest.raises(minseek.InputError, match=r"the tuned model takes .* and the disk of .* has 5 B free"):
        tune(str(small), text, tmp_path / "out", Settings(**FAST), device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_new_files(small: Path, text: Path, tmp_path: Path, mask: int) -> None:
    out, before = tmp_path / "out", os.umask(mask)
    try:
        TuneRun(str(small), text, Settings(**FAST), device="cpu").run(out, stop=lambda: True)
        saved = list((out / "checkpoint").iterdir())
        modes = {stat.S_IMODE(file.stat().st_mode) for file in saved}
        tune(str(small), text, out, Settings(**FAST), device="cpu")
    finally:
        os.umask(before)
    modes |= {stat.S_IMODE(file.stat().st_mode) for file in out.rglob("*") if file.is_file()}
    assert modes == {0o666 & ~mask}


def test_checkpoints_are_written_every_ten_minutes(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that passes four minutes at every look; the loop looks once a step."""
    written, now = [], iter(range(0, 10**6, 240))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(
        loop, "write_checkpoint", lambda *args, weights=True: written.append((args[3]["step"], weights))
    )
    tune(str(small), text, tmp_path / "out", Settings(**{**FAST, "steps": 12}), device="cpu")
    assert written == [(3, True), (6, True), (9, True), (12, False)]
