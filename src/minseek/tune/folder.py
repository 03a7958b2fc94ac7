"""The folder of a run: its settings and its log, and the check that an earlier run can be resumed there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minseek.errors import InputError

SETTINGS, LOG, CHECKPOINT = "tune.json", "log.jsonl", "checkpoint"
_RENAMED = {  # settings in folders of earlier versions
    "batch": "batch_size",
    "accumulate": "gradient_accumulation_steps",
    "length": "max_length",
    "clip": "max_grad_norm",
}


def check_folder(path: Path, record: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a folder in which this run can neither start nor resume; nothing is changed.

    Parameters
    ----------
    record : mapping
        Everything that determines the weights, as `RunFolder` stores it.

    Raises
    ------
    InputError
        If the path is a file, or a folder with other things, a finished run, or a run of other settings.
    """
    if not path.exists():
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no directory {path.parent} for {path.name}: make it first")
        return
    if not path.is_dir():
        raise InputError(f"{path} is a file: give the name of a directory for the tuned model")
    if not any(path.iterdir()):
        return
    earlier = _read(path)
    if earlier is None:
        raise InputError(f"{path} does not hold a run of minseek tune: give another directory")
    if overwrite:
        return
    if earlier["finished"]:
        raise InputError(f"the run in {path} is finished: give another directory, or overwrite to lose it")
    before = {_RENAMED.get(name, name): value for name, value in earlier["run"].items()}
    differ = [name for name in {**before, **record} if before.get(name) != record.get(name)]
    if differ:
        changes = ", ".join(f"{name} was {before.get(name)!r} and is {record.get(name)!r}" for name in differ)
        raise InputError(
            f"the run in {path} was started with other settings: {changes}: give the same ones to resume it, another "
            "directory, or overwrite to lose it"
        )


class RunFolder:
    """The folder of a running run, locked against other runs.

    Parameters
    ----------
    path : Path
        Accepted by `check_folder`; created if it does not exist.
    overwrite : bool
        Delete an earlier run.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], *, overwrite: bool) -> None:
        self.path, self._record = path, dict(record)
        path.mkdir(exist_ok=True)
        self._log = os.open(path / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._log)
            raise InputError(f"another run is writing to {path}: wait for it, or give another directory") from None
        except OSError:  # a file system without locks
            pass
        if overwrite:
            self._clear()
        self._write_record(finished=False)

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.path / CHECKPOINT

    def cut_log(self, size: int) -> None:
        """Remove the entries logged after a checkpoint."""
        os.ftruncate(self._log, size)

    def log(self, entry: Mapping[str, Any]) -> int:
        """Append an entry and return the size of the log, bytes."""
        os.write(self._log, json.dumps(entry).encode() + b"\n")
        return os.fstat(self._log).st_size

    def finish(self) -> None:
        """Mark the run as finished and delete its checkpoint."""
        self._write_record(finished=True)
        for name in (CHECKPOINT, f"{CHECKPOINT}.old", f"{CHECKPOINT}.new"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def close(self) -> None:
        """Release the folder."""
        os.close(self._log)

    def _write_record(self, *, finished: bool) -> None:
        from minseek import __version__

        new = self.path / f"{SETTINGS}.new"
        new.write_text(json.dumps({"minseek": __version__, "finished": finished, "run": self._record}, indent=1) + "\n")
        os.replace(new, self.path / SETTINGS)

    def _clear(self) -> None:
        for item in self.path.iterdir():
            if item.name == LOG:
                os.ftruncate(self._log, 0)
            elif item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    """The record that `RunFolder` wrote; None if there is none."""
    try:
        record = json.loads((path / SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    valid = isinstance(record, dict) and isinstance(record.get("run"), dict)
    return record if valid and isinstance(record.get("finished"), bool) else None
