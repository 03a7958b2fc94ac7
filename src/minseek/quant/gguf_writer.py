"""Writing of GGUF files: whole or not at all, a few rows of a tensor at a time."""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError
from minseek.quant.block_formats import BlockFormat
from minseek.units import format_bytes

Kind = Literal["uint32", "int32", "float32", "bool", "string"]
_CODES: dict[Kind, tuple[int, str]] = {
    **{"uint32": (4, "<I"), "int32": (5, "<i"), "float32": (6, "<f"), "bool": (7, "<?")},
    "string": (8, ""),
}
_ALIGNMENT = 32


@dataclass(frozen=True)
class TensorPlan:
    """Name, shape (columns last) and format of a tensor to write."""

    name: str
    shape: tuple[int, ...]
    format: BlockFormat

    @property
    def nbytes(self) -> int:
        """Bytes of its blocks."""
        return math.prod(self.shape[:-1]) * self.format.row_bytes(self.shape[-1])


def encode_entry(key: str, kind: Kind, value: object) -> bytes:
    """An entry of metadata as it is stored; a list or tuple becomes an array."""
    code, _ = _CODES[kind]
    if isinstance(value, (list, tuple)):
        items = b"".join(_encode_value(kind, item) for item in value)
        return _text(key) + struct.pack("<IIQ", 9, code, len(value)) + items
    return _text(key) + struct.pack("<I", code) + _encode_value(kind, value)


def write_gguf(
    path: Path,
    entries: Sequence[bytes],
    tensors: Sequence[TensorPlan],
    rows_of: Callable[[TensorPlan], Iterator[NDArray[np.uint8]]],
) -> None:
    """Write a file beside its place and rename it, so that there is never a half of one.

    Parameters
    ----------
    entries : sequence of bytes
        Metadata, as `encode_entry` makes it.
    rows_of : callable
        Blocks of a tensor, some rows at a time.

    Raises
    ------
    InputError
        If the disk has not enough room, or the file cannot be written.
    """
    header = _header(entries, tensors)
    size = len(header) + sum(_padded(tensor.nbytes) for tensor in tensors)
    try:
        free = shutil.disk_usage(path.absolute().parent).free
        if size > free:
            raise InputError(
                f"{path} takes {format_bytes(size)}, and its disk has {format_bytes(free)} free: make room"
            )
        handle, new = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(header)
                for tensor in tensors:
                    _write_tensor(stream, tensor, rows_of(tensor))
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(new, 0o666 & ~_umask())
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise InputError(f"{path} could not be written: {error.strerror or error}") from None


def _write_tensor(stream: BinaryIO, tensor: TensorPlan, rows: Iterator[NDArray[np.uint8]]) -> None:
    written = 0
    for chunk in rows:
        written += stream.write(np.ascontiguousarray(chunk).data)
    if written != tensor.nbytes:
        raise RuntimeError(f"{written} bytes were made of the tensor {tensor.name}, which has {tensor.nbytes}")
    stream.write(bytes(_padded(written) - written))


def _header(entries: Sequence[bytes], tensors: Sequence[TensorPlan]) -> bytes:
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries)), *entries]
    offset = 0
    for tensor in tensors:
        dimensions = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        parts += [_text(tensor.name), dimensions, struct.pack("<IQ", tensor.format.gguf_type, offset)]
        offset += _padded(tensor.nbytes)
    header = b"".join(parts)
    return header + bytes(_padded(len(header)) - len(header))


def _encode_value(kind: Kind, value: object) -> bytes:
    return _text(str(value)) if kind == "string" else struct.pack(_CODES[kind][1], value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
