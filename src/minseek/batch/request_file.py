"""Request files, whose lines are read more than once."""

from __future__ import annotations

import codecs
import gzip
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import IO, Self

from minseek.batch.gzip_lines import MAGIC
from minseek.errors import InputError


class RequestFile:
    """A file of lines, never held in memory as a whole; pipes and gzip files are copied into a temporary file.

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
            self._file = stream if path != "-" and stream.seekable() else _copy(stream)
            start = self._start(4)
            if start.startswith(MAGIC):
                packed = self._file
                packed.seek(0)
                self._file = _copy(gzip.GzipFile(fileobj=packed))  # type: ignore[arg-type]
                packed.close()
                start = self._start(4)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{self.name} is a damaged gzip file ({error}): compress the requests again") from None
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror or error}") from None
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0\0" in (start[::2], start[1::2]):
            raise InputError(f"{self.name} is UTF-16 text: save it as UTF-8")

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

    def _start(self, size: int) -> bytes:
        self._file.seek(0)
        return self._file.read(size)


def _copy(stream: IO[bytes]) -> IO[bytes]:
    """Copy what a stream holds into a temporary file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, file)
    return file
