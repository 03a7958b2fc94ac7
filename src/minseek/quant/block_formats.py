"""Formats in which GGUF files store blocks of weights."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.errors import InputError, check_type


@dataclass(frozen=True)
class BlockFormat:
    """Format of the blocks that a row of weights is divided into.

    Attributes
    ----------
    name : str
        Name on the command line and in Python, such as "q4_k".
    gguf_type : int
        Number of the type in GGUF files (`GGMLQuantizationType` of llama.cpp).
    block_size : int
        Weights in a block; 1 for formats without blocks.
    block_bytes : int
        Bytes of a block, scales included.
    """

    name: str
    gguf_type: int
    block_size: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight, its share of the scales included."""
        return 8 * self.block_bytes / self.block_size

    @property
    def is_dense(self) -> bool:
        """True for formats that store each weight by itself, as a floating-point number."""
        return self.block_size == 1

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` weights.

        Raises
        ------
        InputError
            If the row is not a whole number of blocks.
        """
        if columns % self.block_size:
            raise InputError(f"a row of {columns} weights is no multiple of {self.block_size}, a block of {self.name}")
        return columns // self.block_size * self.block_bytes


_TABLE = (
    # name, number in GGUF files, weights and bytes of a block
    ("f32", 0, 1, 4),
    ("f16", 1, 1, 2),
    ("bf16", 30, 1, 2),
    ("q4_0", 2, 32, 18),
    ("q4_1", 3, 32, 20),
    ("q5_0", 6, 32, 22),
    ("q5_1", 7, 32, 24),
    ("q8_0", 8, 32, 34),
    ("q2_k", 10, 256, 84),
    ("q3_k", 11, 256, 110),
    ("q4_k", 12, 256, 144),
    ("q5_k", 13, 256, 176),
    ("q6_k", 14, 256, 210),
    ("iq4_nl", 20, 32, 18),
    ("iq4_xs", 23, 256, 136),
    ("mxfp4", 39, 32, 17),
)
BLOCK_FORMATS = {row[0]: BlockFormat(*row) for row in _TABLE}
"""Name -> format, for every format that minseek reads."""
FORMAT_OF_GGUF_TYPE = {form.gguf_type: form for form in BLOCK_FORMATS.values()}
"""Number in GGUF files -> format."""


def block_format(name: str) -> BlockFormat:
    """Format with the given name.

    Raises
    ------
    TypeError, InputError
        If there is none.
    """
    check_type("a format of weights must be a string", name, str)
    if name not in BLOCK_FORMATS:
        raise InputError(f"there is no format of weights {name!r}: choose from {', '.join(BLOCK_FORMATS)}")
    return BLOCK_FORMATS[name]
