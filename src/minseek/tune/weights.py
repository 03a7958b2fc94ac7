"""Reading of safetensors files into existing tensors, without a second copy in memory."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from minseek.errors import InputError

_KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BUFFER = 8 * 2**20  # bytes read at a time
_MAX_HEADER = 100_000_000  # the limit of the format's own readers


def read_weights(files: Iterable[Path], into: Mapping[str, Tensor], *, optional: Collection[str] = ()) -> None:
    """Fill tensors by name and convert the dtype.

    Pages of a memory-mapped file, the usual way, would count as memory of the process until they are released.

    Parameters
    ----------
    into : mapping of str to Tensor
        Contiguous tensors of any device and floating dtype.
    optional : collection of str
        Names that the files may lack.

    Raises
    ------
    InputError
        If a file is damaged, holds an unknown tensor or one of another shape, or if no file has one of the names.
    """
    missing = set(into) - set(optional)
    for file in files:
        with file.open("rb") as stream:
            start, header = _header(stream, file)
            for name, entry in header.items():
                if name.endswith("rotary_emb.inv_freq"):  # in old files; the configuration determines it
                    continue
                if name not in into:
                    raise InputError(f"the model is not supported: the tensor {name!r} in {file} is unknown")
                _read(stream, start, entry, into[name], f"the tensor {name!r} in {file}")
                missing.discard(name)
    if missing:
        raise InputError(
            f"the model is incomplete: its files lack {len(missing)} tensors, the first is {min(missing)!r}"
        )


def _header(stream: BinaryIO, file: Path) -> tuple[int, dict[str, Any]]:
    """Offset of the data, and the entry of each tensor."""
    try:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > _MAX_HEADER:
            raise ValueError
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        return 8 + length, dict(header)
    except (ValueError, struct.error, AttributeError):
        raise InputError(f"{file} is not a safetensors file, or is damaged") from None


def _read(stream: BinaryIO, start: int, entry: Mapping[str, Any], target: Tensor, label: str) -> None:
    kind = _KINDS.get(entry["dtype"])
    if kind is None:
        raise InputError(f"{label} is stored as {entry['dtype']}: only F32, F16 and BF16 can be tuned")
    begin, end = entry["data_offsets"]
    if list(target.shape) != entry["shape"] or end - begin != math.prod(entry["shape"]) * kind.itemsize:
        raise InputError(f"{label} has the shape {entry['shape']}, and the configuration says {list(target.shape)}")
    stream.seek(start + begin)
    flat, done = target.view(-1), 0
    buffer = bytearray(min(_BUFFER, end - begin))
    while done < len(flat):
        chunk = memoryview(buffer)[: (len(flat) - done) * kind.itemsize]
        if stream.readinto(chunk) != len(chunk):  # type: ignore[attr-defined]
            raise InputError(f"{label} is cut off")
        values = torch.frombuffer(buffer, dtype=kind, count=len(chunk) // kind.itemsize)
        flat[done : done + len(values)].copy_(values)
        done += len(values)
