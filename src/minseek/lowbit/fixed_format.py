"""Fixed-point formats."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from minseek.errors import InputError, check_type
from minseek.lowbit.format import Format


@dataclass(frozen=True, repr=False)
class Fixed(Format):
    """A fixed-point format in two's complement: multiples of 2^-`fraction_bits`; too large numbers saturate.

    Parameters
    ----------
    word_length : int
        Bits of a code, sign included, 2 to 53.
    fraction_bits : int
        Bits after the point; may be negative, or larger than `word_length`.

    Raises
    ------
    InputError
        If the numbers are out of these ranges, or the values do not fit into float64.
    TypeError
        If one of them is not an integer.
    """

    word_length: int
    fraction_bits: int

    def __post_init__(self) -> None:
        for name in ("word_length", "fraction_bits"):
            check_type(f"{name} must be an integer", getattr(self, name), Integral)
        if not 2 <= self.word_length <= 53:
            raise InputError(f"word_length must be 2 to 53, not {self.word_length}")
        if not -900 <= self.fraction_bits <= 1000:
            raise InputError(f"fraction_bits must be -900 to 1000, not {self.fraction_bits}")

    @property
    def name(self) -> str:
        return f"fixed{self.word_length}.{self.fraction_bits}"

    @property
    def saturate(self) -> bool:  # type: ignore[override]
        return True

    @property
    def quantum(self) -> int:  # type: ignore[override]
        return -self.fraction_bits

    @property
    def bits(self) -> int:
        return self.word_length

    @property
    def largest(self) -> float:
        return float(2 ** (self.word_length - 1) - 1) * self.smallest

    @property
    def lowest(self) -> float:
        return -float(2 ** (self.word_length - 1)) * self.smallest

    @property
    def smallest(self) -> float:
        return 2.0**self.quantum

    def ulp(self, x: Tensor) -> Tensor:
        finite = x.detach().isfinite()
        return torch.where(finite, self.smallest, torch.nan).to(torch.float64)

    def _magnitudes(self) -> Tensor:
        return torch.arange(2 ** (self.word_length - 1) + 1, dtype=torch.float64) * self.smallest

    def __repr__(self) -> str:
        return f"Fixed({self.word_length}, {self.fraction_bits})"
