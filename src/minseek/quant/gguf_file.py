"""GGUF files mapped into memory: metadata, and tensors as views of the file."""

from __future__ import annotations

import hashlib
import math
import mmap
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError, is_instance
from minseek.quant.gguf_header import Header, StringArray, parse_header
from minseek.quant.packed import PackedTensor

T = TypeVar("T")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_KINDS: dict[Any, str] = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """Metadata and tensors of a GGUF file and of the files that it was split into.

    Attributes
    ----------
    path : Path
        The file; the first one of a split model.
    metadata : dict
        Key -> number, string, array of numbers, or `StringArray`, of the first file.
    tensors : dict of str to PackedTensor
        Views of the mapped files; leading dimensions of tensors with more than two are rows.
    shapes : dict of str to tuple of int
        Shapes of the tensors, columns last.
    metadata_hash : str
        Hash of the metadata as stored, 24 hexadecimal digits.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, PackedTensor]
    shapes: dict[str, tuple[int, ...]]
    metadata_hash: str
    _maps: tuple[_MappedFile, ...]

    @property
    def architecture(self) -> str:
        """Architecture, in llama.cpp's spelling."""
        return self.required("general.architecture", str)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(len(mapped.data) for mapped in self._maps)

    def optional(self, key: str, kind: type[T], default: T) -> T:
        """Value of a metadata key, or `default` if there is none.

        Raises
        ------
        InputError
            If the value is of another kind.
        """
        if key not in self.metadata:
            return default
        value = self.metadata[key]
        if kind is float and is_instance(value, int):
            value = float(value)
        if not is_instance(value, kind):
            raise InputError(f"{self.path} is damaged: its {key} is {value!r:.40} instead of {_KINDS[kind]}")
        return value  # type: ignore[no-any-return]

    def required(self, key: str, kind: type[T]) -> T:
        """Value of a metadata key.

        Raises
        ------
        InputError
            If there is none, or it is of another kind.
        """
        if key not in self.metadata:
            raise InputError(f"{self.path} is incomplete: its metadata lacks {key}")
        return self.optional(key, kind, kind())

    def strings(self, key: str) -> list[str] | None:
        """Array of strings of a metadata key, or None if there is none.

        Raises
        ------
        InputError
            If the value is no array of strings, or they are not UTF-8.
        """
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, StringArray):
            raise InputError(f"{self.path} is damaged: its {key} is no array of strings")
        try:
            return list(value)
        except UnicodeDecodeError:
            raise InputError(f"{self.path} is damaged: a string of its {key} is not UTF-8") from None

    def stored_entry(self, key: str) -> bytes:
        """Bytes of an entry of metadata as they are stored, key and type included."""
        start, stop = self._maps[0].header.spans[key]
        return bytes(self._maps[0].data[start:stop])

    def release(self, tensors: Iterable[PackedTensor]) -> None:
        """Take pages of tensors that were read out of the process's memory; they are read again where needed."""
        for tensor in tensors:
            for mapped in self._maps:
                mapped.release(tensor.data)


def open_gguf(path: Path) -> GGUFFile:
    """Map a GGUF file, and the other parts of a split model, into memory.

    Nothing but the header is read; tensors are read when they are used.

    Raises
    ------
    InputError
        If a file is missing, is no GGUF file, is damaged, or is of a kind that is not supported.
    """
    first = _MappedFile(path)
    count = first.header.metadata.get("split.count", 1)
    if not is_instance(count, int) or count <= 1:
        return _combine([first])
    match = _PART.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise InputError(
            f"{path} is one of {count} parts: give it the name that llama.cpp gave it, …-00001-of-{count:05}.gguf"
        )
    names = [f"{match[1]}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    parts = []
    for number, name in enumerate(names):
        part = (
            first if name == path.name else _MappedFile(path.with_name(name), f"; {path.name} is one of {count} parts")
        )
        if (part.header.metadata.get("split.no"), part.header.metadata.get("split.count")) != (number, count):
            raise InputError(f"{part.path} is not part {number + 1} of {count}, as its name says")
        parts.append(part)
    return _combine(parts)


class _MappedFile:
    """One mapped file and its header."""

    def __init__(self, path: Path, note: str = "") -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                self.data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            raise InputError(f"{path} is not a GGUF file: it is empty") from None
        except OSError as error:
            raise InputError(f"{path} could not be read: {error.strerror}{note}") from None
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.data, np.uint8)
        try:
            self.header: Header = parse_header(self.data)
        except InputError as error:
            kind = "is damaged" if self.data[:4] == b"GGUF" else "is not a GGUF file"
            raise InputError(f"{path} {kind}: {error}") from None

    def tensors(self) -> dict[str, PackedTensor]:
        found = {}
        for entry in self.header.tensors:
            rows = math.prod(entry.shape[:-1])
            data = self.bytes[entry.start : entry.stop].reshape(rows, -1)
            found[entry.name] = PackedTensor(entry.format, rows, entry.shape[-1], data)
        return found

    def release(self, data: NDArray[np.uint8]) -> None:
        start = data.ctypes.data - self.bytes.ctypes.data
        first = max(start, 0) // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED") and 0 <= start < len(self.bytes):
            self.data.madvise(mmap.MADV_DONTNEED, first, start + data.nbytes - first)


def _combine(parts: list[_MappedFile]) -> GGUFFile:
    path, metadata = parts[0].path, parts[0].header.metadata
    tensors: dict[str, PackedTensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for part in parts:
        found = part.tensors()
        if twice := tensors.keys() & found.keys():
            raise InputError(f"{part.path} is damaged: the tensor {min(twice)!r:.80} is in another part, too")
        tensors |= found
        shapes |= {entry.name: entry.shape for entry in part.header.tensors}
    total = metadata.get("split.tensors.count", len(tensors))
    if len(parts) > 1 and total != len(tensors):
        raise InputError(f"{path} is incomplete: its parts hold {len(tensors)} tensors instead of {total!r:.40}")
    digest = hashlib.sha256(parts[0].data[: parts[0].header.stop]).hexdigest()[:24]
    return GGUFFile(path, metadata, tensors, shapes, digest, tuple(parts))
