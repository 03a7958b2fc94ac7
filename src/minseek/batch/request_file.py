"""Request files, whose lines are read more than once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self

from minseek.errors import InputError


class RequestFile:
    """A file of lines, never held in memory as a whole; a pipe is copied into a temporary file.

    Parameters
    ----------
    path : str
        Path of the file; "-" is standard input.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else path
        if path == "-" and sys.stdin is None:
            raise InputError("the requests '-' are read from standard input, and that is closed")
        try:
            stream: IO[bytes] = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
            if path != "-" and stream.seekable():
                self._file = stream
            else:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
                shutil.copyfileobj(stream, self._file)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror or error}") from None

    def lines(self) -> Iterator[bytes]:
        """Yield all lines, from the first one on."""
        self._file.seek(0)
        yield from self._file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
