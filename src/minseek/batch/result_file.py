"""A result file: whole lines only, and what an earlier run has left in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from minseek.batch.requests import InvalidRequest, Request
from minseek.batch.results import dump_record
from minseek.errors import InputError

_BEGINNING = b'{"id": '  # of every record


@dataclass
class ResumeState:
    """What a result file holds already.

    Attributes
    ----------
    ids : dict
        Of requests that have their line, in the file's order.
    lines : set of int
        Numbers of input lines that have an error record which is not an id's own: no id, or another line's.
    failed : int
        How many of all of these are error records.
    whole, torn : int
        Bytes of whole lines, and behind them of a line that a killed run did not finish.
    """

    ids: dict[str | int, None] = field(default_factory=dict)
    lines: set[int] = field(default_factory=set)
    failed: int = 0
    whole: int = 0
    torn: int = 0

    def has(self, item: Request | InvalidRequest) -> bool:
        """Whether that request has its line."""
        if isinstance(item, InvalidRequest) and (item.id is None or item.code == "duplicate_id"):
            return item.line in self.lines
        return item.id in self.ids


def read_resume_state(path: Path) -> ResumeState:
    """What an earlier run has written; nothing is changed.

    Raises
    ------
    InputError
        If the file holds anything but such records: it is somebody's, and nothing is appended to it.
    """
    earlier = ResumeState()
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.endswith(b"\n"):
                if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
                    raise _foreign(path, number)
                earlier.torn = len(raw)
                break
            record = _record(raw)
            if record is None:
                raise _foreign(path, number)
            earlier.whole += len(raw)
            name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
            earlier.failed += error is not None
            if error is not None and (name is None or error.get("code") == "duplicate_id"):
                earlier.lines.add(record["line"])
            else:
                earlier.ids[name] = None
    return earlier


def _record(raw: bytes) -> dict[str, Any] | None:
    """A line as a record of ours; None if it is something else."""
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "id" not in record:
        return None
    name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
    if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
        return None
    if error is None:
        return record if name is not None and ("text" in record or "response" in record) else None
    return record if isinstance(error, dict) and isinstance(record.get("line"), int) else None


def _foreign(path: Path, line: int) -> InputError:
    return InputError(
        f"line {line} of {path} is not a result of minseek batch, so nothing is added to that file: give another one, "
        "or --overwrite to lose what it holds"
    )


class Results(Protocol):
    """Where records go."""

    def write(self, record: dict[str, Any]) -> None:
        """Write a record, whole, now."""


class ResultFile:
    """Appends to a file, which no other run may do at the same time.

    Parameters
    ----------
    earlier : ResumeState
        What `read_resume_state` found: the rest of a torn line is cut off. An empty one begins the file anew.
    """

    def __init__(self, path: Path, earlier: ResumeState, *, overwrite: bool = False) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._lock(path)
            if not overwrite and os.fstat(self._file).st_size != earlier.whole + earlier.torn:
                raise InputError(f"{path} has changed since this run has read it: is another run writing to it?")
            self._size = 0 if overwrite else earlier.whole
            os.ftruncate(self._file, self._size)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; if that does not work out, nothing of it stays."""
        line = memoryview(dump_record(record))
        size = len(line)
        try:
            while line:  # one write as a rule: a disk that fills up takes less
                line = line[os.write(self._file, line) :]
        except BaseException:  # an interrupt too
            os.ftruncate(self._file, self._size)
            raise
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing to {path}: wait for it, or give another file") from None
        except OSError:  # a file system without locks
            return


class ResultStream:
    """Writes to a pipe or a terminal: what is out is out."""

    def __init__(self, path: Path | None) -> None:
        self._own: BinaryIO | None = None
        if path is None:
            if sys.stdout is None:
                raise InputError("the results '-' go to standard output, and that is closed")
            self._stream: BinaryIO = sys.stdout.buffer
        else:
            try:
                self._stream = self._own = path.open("wb")
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}") from None

    def write(self, record: dict[str, Any]) -> None:
        """Write a record and send it off."""
        self._stream.write(dump_record(record))
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            with contextlib.suppress(BrokenPipeError):
                self._own.close()


def is_stream(path: str) -> bool:
    """Whether results go somewhere where nothing can be found again: "-", a pipe, a terminal, /dev/null."""
    if path == "-":
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
