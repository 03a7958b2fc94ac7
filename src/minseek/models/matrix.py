"""Matrices of a decoder: dense tensors, or rows that stay packed in blocks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.native import native_status
from minseek.quant import PackedTensor
from minseek.quant.native_rows import dequantize_rows

_WEIGHTS_AT_ONCE = 2**20  # of a packed matrix, dequantized for one product


class PackedMatrix:
    """Matrix [rows, columns] whose rows stay packed; it computes as its dequantized twin does.

    Parameters
    ----------
    packed : PackedTensor
        Rows in blocks, usually a view of a mapped file.
    dtype : torch.dtype
        Dtype of activations, and of rows that are dequantized for PyTorch.
    """

    device = torch.device("cpu")

    def __init__(self, packed: PackedTensor, dtype: torch.dtype) -> None:
        self.packed, self.dtype = packed, dtype

    @property
    def shape(self) -> torch.Size:
        """Rows and columns, in weights."""
        return torch.Size(self.packed.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.packed.nbytes

    def data_ptr(self) -> int:
        """Address of the first row."""
        return self.packed.data.ctypes.data

    def __len__(self) -> int:
        """Number of rows."""
        return self.packed.rows

    def float_rows(self, first: int, last: int) -> Tensor:
        """Rows ``first .. last - 1`` as float32."""
        library = native_status(self.dtype).library
        if library is None:
            return torch.from_numpy(self.packed.dequantize(first, last))
        return torch.from_numpy(dequantize_rows(library, self.packed, first, last))

    def gather(self, indices: Tensor) -> Tensor:
        """Rows at these indices as float32, [len(indices), columns]."""
        if not len(indices):
            return torch.empty(0, self.packed.columns)
        return torch.cat([self.float_rows(i, i + 1) for i in indices.tolist()])

    def multiply(self, x: Tensor) -> Tensor:
        """The product of x [n, columns] with the transposed matrix, a few rows at a time."""
        rows = max(1, _WEIGHTS_AT_ONCE // self.packed.columns)
        parts = [
            F.linear(x, self.float_rows(first, min(first + rows, len(self))).to(x.dtype))
            for first in range(0, len(self), rows)
        ]
        return torch.cat(parts, -1)


Matrix = Tensor | PackedMatrix


def linear(x: Tensor, matrix: Matrix, bias: Tensor | None) -> Tensor:
    """The product of x [n, columns] with the transposed matrix, plus the bias."""
    if isinstance(matrix, Tensor):
        return F.linear(x, matrix, bias)
    product = matrix.multiply(x)
    return product if bias is None else product + bias


def rows_at(matrix: Matrix, indices: Tensor) -> Tensor:
    """Rows at these indices, in the matrix's dtype or float32."""
    return matrix[indices] if isinstance(matrix, Tensor) else matrix.gather(indices)


def float_rows(matrix: Matrix, first: int, last: int) -> Tensor:
    """Rows ``first .. last - 1`` as float32."""
    return matrix[first:last].float() if isinstance(matrix, Tensor) else matrix.float_rows(first, last)
