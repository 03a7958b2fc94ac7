"""Packed rows of weights as the kernels of the forward pass read them."""

from __future__ import annotations

from ctypes import CDLL, byref, c_int32, c_int64, c_void_p

import numpy as np
from numpy.typing import NDArray

from minseek.native.structs import WeightMatrix
from minseek.quant.packed import PackedTensor


def weight_matrix(packed: PackedTensor) -> WeightMatrix:
    """The structure that kernels read a packed matrix by; the matrix must stay alive as long as it is used."""
    rows = packed.data
    if rows.strides[1] != 1 and rows.shape[1] > 1:
        raise ValueError("rows of a packed matrix must be contiguous")
    return WeightMatrix(rows.ctypes.data, rows.strides[0], packed.format.gguf_type, 0)


def dequantize_rows(library: CDLL, packed: PackedTensor, first: int, last: int) -> NDArray[np.float32]:
    """Rows ``first .. last - 1`` as float32, with the values of `PackedTensor.dequantize`.

    Raises
    ------
    InputError
        If there are no such rows.
    """
    if not 0 <= first < last <= packed.rows:
        return packed.dequantize(first, last)
    values = np.empty((last - first, packed.columns), np.float32)
    rows, sizes = byref(weight_matrix(packed)), (c_int64(first), c_int64(last - first), c_int32(packed.columns))
    library.dequantize_rows(rows, *sizes, c_void_p(values.ctypes.data))
    return values
