"""Packing of dense matrices into blocks of a format."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError
from minseek.quant.block_formats import BLOCK_FORMATS, BlockFormat
from minseek.quant.pack_k import pack_q2_k, pack_q3_k, pack_q4_k, pack_q5_k, pack_q6_k
from minseek.quant.pack_table import pack_iq4_nl, pack_iq4_xs
from minseek.quant.packed import PackedTensor
from minseek.quant.scale_search import Floats

_QUANTIZERS: dict[str, Callable[[Floats], NDArray[np.uint8]]] = {
    **{"q2_k": pack_q2_k, "q3_k": pack_q3_k, "q4_k": pack_q4_k, "q5_k": pack_q5_k, "q6_k": pack_q6_k},
    **{"iq4_nl": pack_iq4_nl, "iq4_xs": pack_iq4_xs},
}
_FALLBACKS = {  # llama.cpp's choice for rows that are no whole number of blocks of 256
    **dict.fromkeys(("q2_k", "q3_k", "iq4_xs"), "iq4_nl"),
    **{"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"},
}
_MAX_THREADS = 8
_WEIGHTS_AT_ONCE = 2**16  # intermediate results stay in the second cache
_READ_AT_ONCE = 2**20  # weights
_LARGEST = 60_000.0  # scales are stored as fp16


def format_for_row(form: BlockFormat, columns: int) -> BlockFormat:
    """The format itself if a row is a whole number of its blocks, else the one that llama.cpp takes in its place."""
    if columns % form.block_size and form.name in _FALLBACKS:
        form = BLOCK_FORMATS[_FALLBACKS[form.name]]
    return form if columns % form.block_size == 0 else BLOCK_FORMATS["f16"]


def format_of_matrix(columns: int, form: BlockFormat, *, is_outer: bool) -> BlockFormat:
    """Format of a matrix in a model that is packed in `form`.

    The embedding and the output layer (`is_outer`), whose errors reach every token, take q6_k at least.
    """
    finer = BLOCK_FORMATS["q6_k"]
    return format_for_row(finer if is_outer and form.bits_per_weight < finer.bits_per_weight else form, columns)


def pack_matrix(
    read: Callable[[int, int], NDArray[np.floating]], rows: int, columns: int, form: BlockFormat
) -> PackedTensor:
    """Pack a matrix that is read a few rows at a time; see `pack`.

    Parameters
    ----------
    read : callable
        Rows ``first .. last - 1``.
    """
    packed = np.empty((rows, form.row_bytes(columns)), np.uint8)
    at_once = max(1, _READ_AT_ONCE // columns)
    for first in range(0, rows, at_once):
        last = min(first + at_once, rows)
        packed[first:last] = pack(read(first, last), form).data
    return PackedTensor(form, rows, columns, packed)


def pack(values: NDArray[np.floating], form: BlockFormat) -> PackedTensor:
    """Quantize a matrix [rows, columns].

    Formats with blocks of 256 and tables are searched for the scales of least squared error, weighted by the size of
    the weights as in llama.cpp; others are rounded as `gguf.quants.quantize` does.

    Raises
    ------
    InputError
        If a row is no whole number of blocks, or a weight is not finite or too large.
    """
    rows, columns = values.shape
    packed = np.empty((rows, form.row_bytes(columns)), np.uint8)
    at_once = max(1, _WEIGHTS_AT_ONCE // columns)

    def pack_rows(first: int) -> None:
        chunk = np.ascontiguousarray(values[first : first + at_once], np.float32)
        if not np.abs(chunk).max(initial=0) < _LARGEST:  # also false for NaN
            raise InputError(f"weights must be finite and below {_LARGEST:,.0f} to be packed in {form.name}")
        packed[first : first + at_once] = _quantize(chunk, form)

    with ThreadPoolExecutor(max_workers=min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for _ in threads.map(pack_rows, range(0, rows, at_once)):
            pass
    return PackedTensor(form, rows, columns, packed)


def _quantize(values: Floats, form: BlockFormat) -> NDArray[np.uint8]:
    if form.name in _QUANTIZERS:
        return _QUANTIZERS[form.name](values.reshape(-1, form.block_size)).reshape(len(values), -1)
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    with np.errstate(divide="ignore", over="ignore"):
        packed: NDArray[np.uint8] = quantize(values, GGMLQuantizationType(form.gguf_type)).view(np.uint8)
    return packed.reshape(len(values), -1)
