"""Reading of a safetensors file straight into packed memory, so that a load never takes more than the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from minseek.models.weights import packed_views

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_packed(file: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of a file in `dtype`, in one allocation on huge pages.

    The library's readers map the file or read it into tensors of their own; pages of a mapped file count as memory of
    the process once they have been read, so that either way a load would take twice the weights.

    Raises
    ------
    ValueError, KeyError, OSError
        If the file is damaged, or stores a type other than float32, float16 and bfloat16.
    """
    with file.open("rb") as stream:
        header, start = _read_header(stream)
        packed = packed_views({name: entry["shape"] for name, entry in header.items()}, dtype)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            stored, target = _DTYPES[entry["dtype"]], packed[name]
            if end - begin != target.numel() * stored.itemsize:
                raise ValueError(f"the tensor {name!r} has {end - begin} bytes, not those of its shape")
            stream.seek(start + begin)
            if stored == dtype:
                _fill(stream, target)
            else:
                raw = torch.empty(target.shape, dtype=stored)
                _fill(stream, raw)
                target.copy_(raw)
    return packed


def packed_bytes(files: Iterable[Path], dtype: torch.dtype) -> int:
    """Bytes that the tensors of these files take in `dtype`.

    Raises
    ------
    ValueError, KeyError, OSError
        If a file is damaged.
    """
    shapes: dict[str, Sequence[int]] = {}  # of a tensor in several files the last one counts
    for file in files:
        with file.open("rb") as stream:
            shapes |= {name: entry["shape"] for name, entry in _read_header(stream)[0].items()}
    return sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize


def _read_header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """Entries by name of tensor, and where the data begins."""
    length = int.from_bytes(stream.read(8), "little")
    text = stream.read(min(length, 100_000_000))  # the library's limit
    header = json.loads(text)
    header.pop("__metadata__", None)
    return header, 8 + length


def _fill(stream: BinaryIO, tensor: Tensor) -> None:
    if not math.prod(tensor.shape):
        return
    view = tensor.view(-1).view(torch.uint8).numpy().data
    while view:
        count = stream.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the file is cut off")
        view = view[count:]
