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
from minseek.files import check_output_folder

SETTINGS, LOG, CHECKPOINT = "tune.json", "log.jsonl", "checkpoint"
_LENGTHS = ("steps", "epochs")  # settings that a longer run changes
_RENAMED = {  # settings in folders of earlier versions
    "batch": "batch_size",
    "accumulate": "gradient_accumulation_steps",
    "length": "max_length",
    "clip": "max_grad_norm",
}


def check_folder(path: Path, record: Mapping[str, Any], *, steps: int, overwrite: bool) -> None:
    """Refuse a folder in which this run can neither start nor go on; nothing is changed.

    Parameters
    ----------
    record : mapping
        Everything that determines the weights, as `RunFolder` stores it.
    steps : int
        Steps of this run. A run of fewer steps, finished or not, is lengthened.

    Raises
    ------
    InputError
        If the path cannot be written or is a file, or a folder with other things, a finished run of as many steps, or a
        run of other settings.
    """
    check_output_folder(path)
    if not path.exists() or not any(path.iterdir()):
        return
    earlier = _read(path)
    if earlier is None:
        raise InputError(f"{path} does not hold a run of minseek tune: give another directory")
    if overwrite:
        return
    before = {_RENAMED.get(name, name): value for name, value in earlier["run"].items()}
    done = earlier.get("steps", before.get("steps"))  # earlier versions wrote no number of steps
    is_longer = isinstance(done, int) and steps > done
    if earlier["finished"] and not is_longer:
        after = "" if done is None else f" after {done} steps"
        raise InputError(
            f"the run in {path} is finished{after}: give more steps to lengthen it, another directory, or overwrite to "
            "lose it"
        )
    lengths = _LENGTHS if is_longer else ()
    differ = [name for name in {**before, **record} if before.get(name) != record.get(name) and name not in lengths]
    if differ:
        changes = ", ".join(f"{name} was {before.get(name)!r} and is {record.get(name)!r}" for name in differ)
        raise InputError(
            f"the run in {path} was started with other settings: {changes}: give the same ones to resume it, another "
            "directory, or overwrite to lose it"
        )
    if earlier["finished"] and not (path / CHECKPOINT).is_dir():
        raise InputError(
            f"the run in {path} is finished, and without its {CHECKPOINT} directory it cannot be lengthened: give "
            "another directory, or overwrite to lose it"
        )


class RunFolder:
    """The folder of a running run, locked against other runs.

    Parameters
    ----------
    path : Path
        Accepted by `check_folder`; created if it does not exist.
    steps : int
        Steps of the run.
    overwrite : bool
        Delete an earlier run.
    """

    def __init__(self, path: Path, record: Mapping[str, Any], *, steps: int, overwrite: bool) -> None:
        self.path, self._record, self._steps = path, dict(record), steps
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
        """Mark the run as finished."""
        self._write_record(finished=True)

    def close(self) -> None:
        """Release the folder."""
        os.close(self._log)

    def _write_record(self, *, finished: bool) -> None:
        from minseek import __version__

        new = self.path / f"{SETTINGS}.new"
        record = {"minseek": __version__, "finished": finished, "steps": self._steps, "run": self._record}
        new.write_text(json.dumps(record, indent=1) + "\n")
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
