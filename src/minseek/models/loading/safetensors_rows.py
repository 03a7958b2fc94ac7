"""Rows of the matrices in safetensors files as float32, read a few at a time; nothing is mapped or kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_MAX_HEADER = 100_000_000  # the limit of the format's own readers


class SafetensorsRows:
    """Tensors of some safetensors files; of a tensor in several files the last one counts.

    Attributes
    ----------
    shapes : dict of str to tuple of int

    Raises
    ------
    InputError
        If a file is damaged, or stores a type other than float32, float16 and bfloat16.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Path, int, str]] = {}
        for file in files:
            start, header = _read_header(file)
            for name, entry in header.items():
                if name.endswith("rotary_emb.inv_freq"):  # in old files; the configuration determines it
                    continue
                self._add(file, start, name, entry)

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        """Rows ``first .. last - 1`` of a matrix, or the only one of a vector.

        Raises
        ------
        InputError
            If the file is cut off.
        """
        file, start, kind = self._places[name]
        dtype, columns = _DTYPES[kind], self.shapes[name][-1]
        with file.open("rb") as stream:
            stream.seek(start + first * columns * dtype.itemsize)
            values = np.fromfile(stream, dtype, (last - first) * columns)
        if len(values) != (last - first) * columns:
            raise InputError(f"{file} is cut off: the tensor {name!r} is not whole")
        if kind == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(values, np.float32).reshape(last - first, columns)

    def _add(self, file: Path, start: int, name: str, entry: dict[str, Any]) -> None:
        try:
            kind, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
            size = end - begin
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file} is damaged: its tensor {name!r:.80} has no place") from None
        if kind not in _DTYPES:
            raise InputError(
                f"the tensor {name!r:.80} is stored as {kind}: only float32, float16 and bfloat16 are supported"
            )
        if not shape or size != math.prod(shape) * _DTYPES[kind].itemsize or start + end > file.stat().st_size:
            raise InputError(f"{file} is damaged or cut off: the tensor {name!r:.80} is not whole")
        self.shapes[name] = shape
        self._places[name] = file, start + begin, kind


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """First byte of the data, and the entry of each tensor."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MAX_HEADER:
                raise ValueError
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            return 8 + length, dict(header)
    except (ValueError, AttributeError):
        raise InputError(f"{file} is not a safetensors file, or is damaged") from None
