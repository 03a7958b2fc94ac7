"""Floating-point formats."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from minseek.errors import InputError, check_type
from minseek.lowbit.format import Format

Specials = Literal["inf-nan", "nan", "none"]
"""Use of the highest codes: infinities and NaNs as in IEEE 754, a single NaN, or values only."""

NAMES: dict[Float, str] = {}
"""Names of well-known formats, filled by `minseek.lowbit.formats`."""


@dataclass(frozen=True, repr=False)
class Float(Format):
    """A floating-point format: a sign, an exponent, a mantissa, with a hidden bit.

    ``Float(5, 2)`` follows IEEE 754: bias 2^(e-1) - 1, the highest exponent for infinities and NaNs, gradual underflow.

    Parameters
    ----------
    exponent_bits : int
        1 to 11.
    mantissa_bits : int
        Without the hidden bit, 1 to 52.
    bias : int, optional
        Number subtracted from the code of the exponent.
    specials : {"inf-nan", "nan", "none"}
        Use of the highest codes: "inf-nan" as in IEEE 754; "nan": all ones is the only NaN, there is no infinity, and
        the other codes are values (the OCP 8-bit e4m3fn); "none": all codes are values (OCP fp6, fp4).
    subnormals : bool
        Without them there is no value between zero and the smallest normal value.
    saturate : bool, optional
        True: numbers beyond the largest value become that value. False: they become an infinity, or NaN where the
        format has no infinity. The default is False where the format has either, else True.

    Raises
    ------
    InputError
        If no such format exists, or its values do not fit into float64.
    TypeError
        If a number of bits or the bias is not an integer.

    Notes
    -----
    A NaN stays NaN, also in formats without one, where it marks a number that the format cannot represent.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    specials: Specials = "inf-nan"
    subnormals: bool = True
    saturate: bool | None = None

    def __post_init__(self) -> None:
        for name in ("exponent_bits", "mantissa_bits", *(("bias",) if self.bias is not None else ())):
            check_type(f"{name} must be an integer", getattr(self, name), Integral)
        if not 1 <= self.exponent_bits <= 11:
            raise InputError(f"exponent_bits must be 1 to 11, not {self.exponent_bits}")
        if not 1 <= self.mantissa_bits <= 52:
            raise InputError(f"mantissa_bits must be 1 to 52, not {self.mantissa_bits}")
        if self.specials not in ("inf-nan", "nan", "none"):
            raise InputError(f"specials must be 'inf-nan', 'nan' or 'none', not {self.specials!r}")
        if self.bias is None:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        if self.saturate is None:
            object.__setattr__(self, "saturate", self.specials == "none")
        if self.specials == "none" and not self.saturate:
            raise InputError("a format without infinity and NaN has to saturate: leave saturate out")
        if self.specials == "inf-nan" and self.exponent_bits == 1:
            raise InputError("a format with infinities needs 2 exponent bits or more: the highest exponent is theirs")
        if self.least_exponent < -1022 or self.greatest_exponent > 1023:
            raise InputError(f"bias {self.bias} puts exponents of {self.name} outside those of float64, -1022 to 1023")

    @property
    def name(self) -> str:
        known = NAMES.get(self)
        if known:
            return known
        text = f"e{self.exponent_bits}m{self.mantissa_bits}"
        plain = Float(self.exponent_bits, self.mantissa_bits, specials=self.specials) if self.bias is not None else self
        text += {"inf-nan": "-ieee" if text in NAMES.values() else "", "nan": "fn", "none": "f"}[self.specials]
        text += "" if self.bias == plain.bias else f"b{self.bias}"
        text += "" if self.subnormals else "-normal"
        return text + ("-saturating" if self.saturate and self.specials != "none" else "")

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def least_exponent(self) -> int:
        """Exponent of two of the smallest normal value."""
        assert self.bias is not None
        return 1 - self.bias

    @property
    def greatest_exponent(self) -> int:
        """Exponent of two of the largest value, rounded down."""
        assert self.bias is not None
        top = 2**self.exponent_bits - (2 if self.specials == "inf-nan" else 1)
        return int(top) - self.bias

    @property
    def quantum(self) -> int:  # type: ignore[override]
        return self.least_exponent - (self.mantissa_bits if self.subnormals else 0)

    @property
    def epsilon(self) -> float:
        """Grid spacing at 1."""
        return 2.0**-self.mantissa_bits

    @property
    def largest(self) -> float:
        last = 2 ** (self.mantissa_bits + 1) - 1 - (self.specials == "nan")
        return float(last) * 2.0 ** (self.greatest_exponent - self.mantissa_bits)

    @property
    def lowest(self) -> float:
        return -self.largest

    @property
    def smallest(self) -> float:
        return 2.0**self.quantum

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value with a hidden bit."""
        return 2.0**self.least_exponent

    def ulp(self, x: Tensor) -> Tensor:
        size = x.detach().abs().to(torch.float64)
        exponent = torch.frexp(size).exponent - 1
        spacing = (exponent - self.mantissa_bits).clamp(min=self.least_exponent - self.mantissa_bits)
        spacing = torch.where(size < self.smallest_normal, torch.full_like(spacing, self.quantum), spacing)
        return torch.where(size.isfinite(), torch.ldexp(torch.ones_like(size), spacing), torch.nan)

    def _magnitudes(self) -> Tensor:
        steps = torch.arange(2**self.mantissa_bits, dtype=torch.float64)
        low = steps if self.subnormals else steps[:1]
        exponents = torch.arange(self.least_exponent, self.greatest_exponent + 1, dtype=torch.float64)
        normal = (1 + steps * self.epsilon) * 2.0 ** exponents[:, None]
        return torch.cat((low * 2.0 ** (self.least_exponent - self.mantissa_bits), normal.flatten()))

    def __repr__(self) -> str:
        return f"Float({self.exponent_bits}, {self.mantissa_bits}, name={self.name!r})"
