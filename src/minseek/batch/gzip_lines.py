"""Lines of gzip files: those of a killed run are read as far as they go, and each new one is flushed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"\x1f\x8b"
_FORMAT = 16 + zlib.MAX_WBITS  # the format of gzip, not of zlib
_CHUNK = 2**16


class GzipReader:
    """Reads the lines of a gzip file, also of one that breaks off.

    Attributes
    ----------
    complete : bool
        True once all lines were read and the file ends where its last member does.
    """

    def __init__(self, path: Path) -> None:
        self._path, self.complete = path, False

    def lines(self) -> Iterator[bytes]:
        """Yield all lines; the last one has no end if the file breaks off in it.

        Raises
        ------
        zlib.error
            If the file is not a gzip file, or is damaged before its end.
        """
        rest, member = b"", None
        with self._path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                while chunk:
                    member = member or zlib.decompressobj(_FORMAT)
                    *whole, rest = (rest + member.decompress(chunk)).split(b"\n")
                    yield from (line + b"\n" for line in whole)
                    chunk = member.unused_data
                    member = None if member.eof else member
        self.complete = member is None
        if rest:
            yield rest


class GzipEncoder:
    """Compresses lines into one member, each up to a point from which a reader can read it."""

    def __init__(self) -> None:
        self._stream = self._before = zlib.compressobj(wbits=_FORMAT)
        self._used = False

    def encode(self, line: bytes) -> bytes:
        """Bytes to append for a line."""
        self._before, self._used = self._stream.copy(), True
        return self._stream.compress(line) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def undo(self) -> None:
        """Forget the last line, which could not be written."""
        self._stream = self._before

    def end(self) -> bytes:
        """Bytes that end the member; none if it has no line."""
        return self._stream.flush() if self._used else b""


class PlainEncoder:
    """Leaves lines as they are."""

    def encode(self, line: bytes) -> bytes:
        """Bytes to append for a line."""
        return line

    def undo(self) -> None:
        """Forget the last line."""

    def end(self) -> bytes:
        """Nothing ends a plain file."""
        return b""


def make_encoder(name: str) -> GzipEncoder | PlainEncoder:
    """Encoder for a file of this name: gzip if it ends with ``.gz``."""
    return GzipEncoder() if name.endswith(".gz") else PlainEncoder()
