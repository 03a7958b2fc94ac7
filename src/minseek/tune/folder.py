"""The folder of a run: its settings, its log, and whether an earlier run can go on there."""

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


def check_folder(path: Path, record: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse a folder in which this run can neither begin nor go on; nothing is changed.

    Parameters
    ----------
    record : mapping
        All that decides the run's outcome, as `RunFolder` keeps it.

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
        raise InputError(f"{path} holds something else than a run of minseek tune: give another directory")
    if overwrite:
        return
    if earlier["finished"]:
        raise InputError(f"the run in {path} is finished: give another directory, or overwrite to lose it")
    before = earlier["run"]
    differ = [name for name in {**before, **record} if before.get(name) != record.get(name)]
    if differ:
        told = ", ".join(f"{name} was {before.get(name)!r} and is {record.get(name)!r}" for name in differ)
        raise InputError(
            f"the run in {path} was begun with other settings: {told}: give the same ones to go on, another directory, "
            "or overwrite to lose it"
        )


class RunFolder:
    """The folder while a run is under way; no other run may use it.

    Parameters
    ----------
    path : Path
        Passed `check_folder`; made if it is not there.
    overwrite : bool
        Lose an earlier run.
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
        self._note(finished=False)

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.path / CHECKPOINT

    def cut_log(self, size: int) -> None:
        """Forget what was logged after a checkpoint."""
        os.ftruncate(self._log, size)

    def log(self, entry: Mapping[str, Any]) -> int:
        """Append a line; the log's size after it, bytes."""
        os.write(self._log, json.dumps(entry).encode() + b"\n")
        return os.fstat(self._log).st_size

    def finish(self) -> None:
        """Mark the run as finished, and drop its checkpoint."""
        self._note(finished=True)
        for name in (CHECKPOINT, f"{CHECKPOINT}.old", f"{CHECKPOINT}.new"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def close(self) -> None:
        """Let other runs use the folder."""
        os.close(self._log)

    def _note(self, *, finished: bool) -> None:
        from minseek import __version__

        made = self.path / f"{SETTINGS}.new"
        made.write_text(
            json.dumps({"minseek": __version__, "finished": finished, "run": self._record}, indent=1) + "\n"
        )
        os.replace(made, self.path / SETTINGS)

    def _clear(self) -> None:
        for item in self.path.iterdir():
            if item.name == LOG:
                os.ftruncate(self._log, 0)
            elif item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    """What `RunFolder` noted; None if it did not."""
    try:
        noted = json.loads((path / SETTINGS).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(noted, dict) and isinstance(noted.get("run"), dict) and isinstance(noted.get("finished"), bool)
    return noted if known else None
