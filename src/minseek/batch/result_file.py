"""Result files: whole lines only, and resumable."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from minseek.batch.gzip_lines import make_encoder
from minseek.batch.results import dump_record
from minseek.batch.resume_state import ResumeState, kept_lines
from minseek.errors import InputError


class RecordWriter(Protocol):
    """Destination of result records."""

    def write(self, record: dict[str, Any]) -> None:
        """Write a whole record at once."""


class ResultFile:
    """Appends records to a file, which it locks against other runs; a name that ends with ``.gz`` compresses them.

    Parameters
    ----------
    path : Path
    state : ResumeState
        From `read_resume_state`; an incomplete last line is cut off, and error records that are retried are dropped.
    overwrite : bool
        Empty the file first.
    """

    def __init__(self, path: Path, state: ResumeState, *, overwrite: bool = False) -> None:
        self._path, self._encoder = path, make_encoder(path.name)
        self._file = _open(path)
        try:
            self._lock()
            if not overwrite and os.fstat(self._file).st_size != state.whole + state.torn:
                raise InputError(f"{path} has changed since this run has read it: is another run writing to it?")
            self._size = 0 if overwrite else state.whole
            if state.rewrite and not overwrite:
                self._rewrite(with_errors=not state.retried)
            else:
                os.ftruncate(self._file, self._size)
        except BaseException:
            os.close(self._file)
            raise

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; after an error nothing of it stays in the file.

        Raises
        ------
        OSError
            If the disk is full, for example; `filename` is the path.
        """
        self._append(dump_record(record))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, OSError):  # the end may not fit either, and the file is readable without it
                with contextlib.suppress(OSError):
                    self._write(self._encoder.end())
            else:
                self._write(self._encoder.end())
        finally:
            os.close(self._file)

    def _append(self, line: bytes) -> None:
        encoded = self._encoder.encode(line)
        try:
            self._write(encoded)
        except BaseException:  # an interrupt too
            self._encoder.undo()
            raise

    def _write(self, encoded: bytes) -> None:
        left, size = memoryview(encoded), len(encoded)
        try:
            while left:  # usually one write: a full disk takes less
                left = left[os.write(self._file, left) :]
        except BaseException as error:
            os.ftruncate(self._file, self._size)
            if isinstance(error, OSError):
                error.filename = str(self._path)
            raise
        self._size += size

    def _rewrite(self, *, with_errors: bool) -> None:
        """Write the lines that stay to a new file, and put it in the place of the old one."""
        old, target = self._file, Path(os.path.realpath(self._path))
        new = target.with_name(f"{target.name}.new")
        self._file, self._size = _open(new), 0
        try:
            self._lock()
            os.ftruncate(self._file, 0)
            os.fchmod(self._file, stat.S_IMODE(os.fstat(old).st_mode))
            for line in kept_lines(target, with_errors=with_errors):
                self._append(line)
            os.fsync(self._file)
            os.replace(new, target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(old)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing to {self._path}: wait for it, or give another file") from None
        except OSError:  # a file system without locks
            return


class ResultStream:
    """Writes records to a pipe or a terminal, where they cannot be read again."""

    def __init__(self, path: Path | None) -> None:
        self._own: BinaryIO | None = None
        self._encoder = make_encoder("" if path is None else path.name)
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
        self._stream.write(self._encoder.encode(dump_record(record)))
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            with contextlib.suppress(BrokenPipeError):
                self._own.write(self._encoder.end())
                self._own.close()


def is_stream(path: str) -> bool:
    """Return True for "-", a pipe, a terminal or /dev/null, whose contents cannot be read again."""
    if path == "-":
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
