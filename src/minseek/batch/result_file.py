"""Result files: whole lines only, and resumable."""

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
from minseek.errors import InputError, is_instance

_BEGINNING = b'{"id": '  # beginning of every record


@dataclass
class ResumeState:
    """Contents of a result file that a run resumes.

    Attributes
    ----------
    ids : dict
        Ids of requests that have a result, in the file's order.
    lines : set of int
        Numbers of input lines with an error record but no id of their own: without an id, or with that of another line.
    failed : int
        Number of error records among both.
    whole, torn : int
        Bytes of whole lines, and of an incomplete last line that a killed run left.
    """

    ids: dict[str | int, None] = field(default_factory=dict)
    lines: set[int] = field(default_factory=set)
    failed: int = 0
    whole: int = 0
    torn: int = 0

    def has(self, item: Request | InvalidRequest) -> bool:
        """Return True if a request has a result."""
        if isinstance(item, InvalidRequest) and (item.id is None or item.code == "duplicate_id"):
            return item.line in self.lines
        return item.id in self.ids


def read_resume_state(path: Path) -> ResumeState:
    """Read what an earlier run has written.

    Raises
    ------
    InputError
        If the file holds anything but result records, so that nothing may be appended to it.
    """
    state = ResumeState()
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if not raw.endswith(b"\n"):
                if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
                    raise _foreign(path, number)
                state.torn = len(raw)
                break
            record = _record(raw)
            if record is None:
                raise _foreign(path, number)
            state.whole += len(raw)
            name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
            state.failed += error is not None
            if error is not None and (name is None or error.get("code") == "duplicate_id"):
                state.lines.add(record["line"])
            else:
                state.ids[name] = None
    return state


def _record(raw: bytes) -> dict[str, Any] | None:
    """Parse a line as a result record; None if it is something else."""
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "id" not in record:
        return None
    name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
    if not is_instance(name, (str, int, type(None))):
        return None
    if error is None:
        return record if name is not None and record.keys() & {"text", "choices", "response"} else None
    return record if isinstance(error, dict) and isinstance(record.get("line"), int) else None


def _foreign(path: Path, line: int) -> InputError:
    return InputError(
        f"line {line} of {path} is not a result of minseek batch, so nothing is added to that file: give another one, "
        "or --overwrite to discard its contents"
    )


class RecordWriter(Protocol):
    """Destination of result records."""

    def write(self, record: dict[str, Any]) -> None:
        """Write a whole record at once."""


class ResultFile:
    """Appends records to a file, which it locks against other runs.

    Parameters
    ----------
    path : Path
    state : ResumeState
        From `read_resume_state`; an incomplete last line is cut off.
    overwrite : bool
        Empty the file first.
    """

    def __init__(self, path: Path, state: ResumeState, *, overwrite: bool = False) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        try:
            self._lock(path)
            if not overwrite and os.fstat(self._file).st_size != state.whole + state.torn:
                raise InputError(f"{path} has changed since this run has read it: is another run writing to it?")
            self._size = 0 if overwrite else state.whole
            os.ftruncate(self._file, self._size)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; after an error nothing of it stays in the file."""
        line = memoryview(dump_record(record))
        size = len(line)
        try:
            while line:  # usually one write: a full disk takes less
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
    """Writes records to a pipe or a terminal, where they cannot be read again."""

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
        """Write a record and flush it."""
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
    """Return True for "-", a pipe, a terminal or /dev/null, whose contents cannot be read again."""
    if path == "-":
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
