"""Parsing of a GGUF file's header: metadata and the table of tensors."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np

from minseek.errors import InputError
from minseek.quant.block_formats import BLOCK_FORMATS, FORMAT_OF_GGUF_TYPE, BlockFormat

_VERSIONS = (2, 3)
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_LEAST_ENTRY, _LEAST_TENSOR = 13, 32  # bytes that an entry of metadata and of the table of tensors take at least
_MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class TensorEntry:
    """Entry of the table of tensors: name, shape (rows last but one, columns last), format, first and last byte."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """Parsed header.

    Attributes
    ----------
    metadata : dict
        Key -> number, string, array of numbers, or `StringArray`.
    spans : dict
        Key -> first byte of its entry, and first byte after it.
    tensors : list of TensorEntry
        In the order of the file.
    stop : int
        First byte after the metadata.
    """

    metadata: dict[str, Any]
    spans: dict[str, tuple[int, int]]
    tensors: list[TensorEntry]
    stop: int


class StringArray:
    """Array of strings in a header, decoded when it is iterated over."""

    def __init__(self, data: mmap, start: int, count: int) -> None:
        self._data, self._start, self._count = data, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        position = self._start
        for _ in range(self._count):
            length = int.from_bytes(self._data[position : position + 8], "little")
            position += 8 + length
            yield self._data[position - length : position].decode()


class _Cursor:
    """Position in a header; nothing is read beyond the end of the file."""

    def __init__(self, data: mmap) -> None:
        self.data, self.position = data, 0

    @property
    def remaining(self) -> int:
        return len(self.data) - self.position

    def number(self, form: str) -> Any:
        try:
            (value,) = struct.unpack_from("<" + form, self.data, self.position)
        except struct.error:
            raise InputError("it ends inside its header") from None
        self.position += struct.calcsize("<" + form)
        return value

    def count(self, least_bytes: int, noun: str) -> int:
        """A number of things that take at least `least_bytes` each, and therefore fit into the rest of the file."""
        count = int(self.number("Q"))
        if count * least_bytes > self.remaining:
            raise InputError(f"it announces {count:,} {noun}, more than the file can hold")
        return count

    def string(self, errors: str = "strict") -> str:
        length = self.count(1, "bytes of text")
        self.position += length
        try:
            return self.data[self.position - length : self.position].decode(errors=errors)
        except UnicodeDecodeError:
            raise InputError("a name in its header is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string(errors="replace")
        if kind == _ARRAY:
            return self.array()
        if kind not in _NUMBERS:
            raise InputError(f"its header has a value of the unknown type {kind}")
        return self.numbers(kind, 1)[0].item()

    def array(self) -> Any:
        kind = self.number("I")
        if kind in _NUMBERS:
            return self.numbers(kind, self.count(np.dtype(_NUMBERS[kind]).itemsize, "numbers"))
        if kind != _STRING:
            raise InputError(f"its header has an array of the unknown type {kind}")
        count = self.count(8, "strings")
        found = StringArray(self.data, self.position, count)
        for _ in range(count):
            length = self.count(1, "bytes of text")
            self.position += length
        return found

    def numbers(self, kind: int, count: int) -> np.ndarray[Any, Any]:
        form = np.dtype(_NUMBERS[kind])
        if count * form.itemsize > self.remaining:
            raise InputError("it ends inside its header")
        start = self.position
        self.position += count * form.itemsize
        return np.frombuffer(self.data[start : self.position], form)


def parse_header(data: mmap) -> Header:
    """Parse the header of a mapped file; the messages of errors lack the file's name.

    Raises
    ------
    InputError
        If the file is not a GGUF file of a supported version, is cut off, or contradicts itself.
    """
    cursor = _Cursor(data)
    if data[:4] != b"GGUF":
        raise InputError("it does not begin with the letters GGUF")
    cursor.position = 4
    version = cursor.number("I")
    if version and not version & 0xFFFF:
        raise InputError("it is big-endian: only little-endian files are supported")
    if version not in _VERSIONS:
        raise InputError(f"it has version {version} of the format: only versions 2 and 3 are supported")
    num_tensors = cursor.count(_LEAST_TENSOR, "tensors")
    metadata: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    for _ in range(cursor.count(_LEAST_ENTRY, "entries of metadata")):
        start, key = cursor.position, cursor.string()
        if key in metadata:
            raise InputError(f"its header has two entries {key!r:.80}")
        metadata[key] = cursor.value(cursor.number("I"))
        spans[key] = start, cursor.position
    stop = cursor.position
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise InputError(f"its alignment is {alignment!r:.80}: it must be a power of two")
    first = -(-cursor.position // alignment) * alignment
    return Header(metadata, spans, _place(entries, first, alignment, len(data)), stop)


def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    num_dimensions = cursor.number("I")
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise InputError(f"its tensor {name!r:.80} has {num_dimensions} dimensions: 1 to 4 are supported")
    shape = tuple(cursor.number("Q") for _ in range(num_dimensions))[::-1]
    return name, shape, cursor.number("I"), cursor.number("Q")


def _place(
    entries: list[tuple[str, tuple[int, ...], int, int]], first: int, alignment: int, size: int
) -> list[TensorEntry]:
    """Tensors with the bytes that each takes, checked against the file and each other."""
    placed: dict[str, TensorEntry] = {}
    for name, shape, kind, offset in entries:
        label = f"its tensor {name!r:.80}"
        if kind not in FORMAT_OF_GGUF_TYPE:
            known = ", ".join(BLOCK_FORMATS)
            raise InputError(f"{label} is stored in the format {_type_name(kind)}: only {known} are supported")
        form = FORMAT_OF_GGUF_TYPE[kind]
        if 0 in shape or shape[-1] % form.block_size:
            raise InputError(f"{label} has the shape {list(shape)}, which blocks of {form.block_size} cannot fill")
        if offset % alignment:
            raise InputError(f"{label} begins at byte {offset:,} of the data, no multiple of {alignment}")
        start = first + offset
        stop = start + math.prod(shape[:-1]) * form.row_bytes(shape[-1])
        if stop > size:
            raise InputError(f"{label} ends at byte {stop:,}, and the file has {size:,}: it is cut off or damaged")
        if name in placed:
            raise InputError(f"it has two tensors {name!r:.80}")
        placed[name] = TensorEntry(name, shape, form, start, stop)
    by_start = sorted(placed.values(), key=lambda entry: entry.start)
    for before, after in itertools.pairwise(by_start):
        if after.start < before.stop:
            raise InputError(f"its tensors {before.name!r:.80} and {after.name!r:.80} overlap")
    return list(placed.values())


def _type_name(kind: int) -> str:
    """Name of a type that minseek does not read, in this project's spelling, or its number."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType(kind).name.lower() if kind in set(GGMLQuantizationType) else f"number {kind}"
