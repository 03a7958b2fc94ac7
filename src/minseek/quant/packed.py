"""Matrices whose rows are stored as blocks of packed weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError
from minseek.quant.block_formats import BlockFormat

_WEIGHTS_AT_ONCE = 2**17  # intermediate results stay in the second cache


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """Matrix of packed weights, [rows, columns]; a vector is a matrix of one row.

    Attributes
    ----------
    format : BlockFormat
        Format of the blocks.
    rows, columns : int
        Shape, in weights.
    data : array of uint8, [rows, row_bytes]
        Blocks of each row, usually a view of a file that is mapped into memory.
    """

    format: BlockFormat
    rows: int
    columns: int
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Refuse data whose shape or type does not fit the format.

        Raises
        ------
        InputError
            With both shapes.
        """
        expected = (self.rows, self.format.row_bytes(self.columns))
        if self.data.dtype != np.uint8 or self.data.shape != expected:
            raise InputError(
                f"{self.rows} x {self.columns} weights in {self.format.name} are uint8 {list(expected)}, "
                f"not {self.data.dtype} {list(self.data.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, in weights."""
        return self.rows, self.columns

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.data.nbytes

    def dequantize(self, first: int = 0, last: int | None = None) -> NDArray[np.float32]:
        """Rows ``first .. last - 1`` as float32, [last - first, columns]; `gguf.quants.dequantize` defines the values.

        Raises
        ------
        InputError
            If there are no such rows.
        """
        last = self.rows if last is None else last
        if not 0 <= first <= last <= self.rows:
            raise InputError(f"there are no rows {first} to {last} in a matrix of {self.rows} rows")
        values = np.empty((last - first, self.columns), np.float32)
        rows = max(1, _WEIGHTS_AT_ONCE // self.columns)
        for start in range(first, last, rows):
            stop = min(start + rows, last)
            values[start - first : stop - first] = self._dequantize(self.data[start:stop])
        return values

    def _dequantize(self, data: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.format.is_dense and self.format.name != "bf16":
            kind = np.float32 if self.format.name == "f32" else np.float16
            return np.asarray(np.ascontiguousarray(data).view(kind), np.float32)
        from gguf import quants  # its `dequantize` does the same in groups of 16 rows, three times slower

        with np.errstate(all="ignore"):  # damaged scales may be infinite or not a number
            values: NDArray[np.float32] = getattr(quants, self.format.name.upper()).dequantize_rows(data)
        return values
