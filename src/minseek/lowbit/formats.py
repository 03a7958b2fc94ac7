"""Number formats: which values there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from minseek.errors import InputError, check_type

_GRID_BITS = 20  # formats of more bits have grids too long to list

Specials = Literal["inf-nan", "nan", "none"]
"""What the highest codes of a floating-point format mean: infinities and NaNs as in IEEE 754, one NaN, or values."""


class Format(ABC):
    """A finite set of values that numbers are rounded to.

    Attributes
    ----------
    quantum : int
        Exponent of two of the finest grid spacing, that at zero.
    saturate : bool
        Whether what is too large becomes the largest value, instead of an infinity or a NaN.
    """

    quantum: int
    saturate: bool | None

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name, such as "bf16"."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of a code."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """The largest finite value."""

    @property
    @abstractmethod
    def lowest(self) -> float:
        """The least (most negative) finite value."""

    @property
    @abstractmethod
    def smallest(self) -> float:
        """The smallest positive value."""

    @abstractmethod
    def ulp(self, x: Tensor) -> Tensor:
        """Grid spacing at each number: the distance between the two values around it, or, for a value of the format, to
        the next one away from zero. Same shape, float64; NaN where `x` is not finite."""

    @abstractmethod
    def _magnitudes(self) -> Tensor:
        """The values from 0 up, float64."""

    def grid(self) -> Tensor:
        """All finite values in ascending order, zero once, float64.

        Raises
        ------
        InputError
            If the format has more than 20 bits.
        """
        if self.bits > _GRID_BITS:
            raise InputError(
                f"the grid of {self.name} has about 2^{self.bits} values: formats up to {_GRID_BITS} bits list theirs"
            )
        up = self._magnitudes()
        down = -up.flip(0)[:-1]
        values = torch.cat((down, up))
        return values[(values >= self.lowest) & (values <= self.largest)]

    def __str__(self) -> str:
        return self.name


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
        What is subtracted from the exponent's code.
    specials : {"inf-nan", "nan", "none"}
        What the highest codes mean: "inf-nan" as in IEEE 754; "nan": only all ones is a NaN, there is no infinity,
        and the other codes are values (the OCP 8-bit e4m3fn); "none": all codes are values (OCP fp6, fp4).
    subnormals : bool
        Without them nothing lies between zero and the smallest normal value.
    saturate : bool, optional
        Whether a number beyond the largest value becomes that value. If not, it becomes an infinity, or NaN where the
        format has no infinity. The default is False where the format has either, and True where it has none, as nothing
        else is left.

    Raises
    ------
    InputError
        If no such format exists, or its values do not fit into float64.
    TypeError
        If a number of bits or the bias is no integer.

    Notes
    -----
    A NaN stays NaN, in formats without one too: there it marks a number that the format cannot say.
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
        known = _NAMES.get(self)
        if known:
            return known
        text = f"e{self.exponent_bits}m{self.mantissa_bits}"
        plain = Float(self.exponent_bits, self.mantissa_bits, specials=self.specials) if self.bias is not None else self
        text += {"inf-nan": "-ieee" if text in FORMATS else "", "nan": "fn", "none": "f"}[self.specials]
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


@dataclass(frozen=True, repr=False)
class Fixed(Format):
    """A fixed-point format in two's complement: multiples of 2^-`fraction_bits`; what is too large saturates.

    Parameters
    ----------
    word_length : int
        Bits of a code, sign included, 2 to 53.
    fraction_bits : int
        Bits after the point; may be negative, or more than the word has.

    Raises
    ------
    InputError
        If the numbers are out of these ranges, or the values do not fit into float64.
    TypeError
        If one of them is no integer.
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


_NAMES: dict[Float, str] = {}  # filled below; formats look their names up in it

fp32 = Float(8, 23)
"""IEEE 754 binary32."""
fp16 = Float(5, 10)
"""IEEE 754 binary16."""
bf16 = Float(8, 7)
"""bfloat16: the upper half of binary32."""
e4m3fn = Float(4, 3, specials="nan")
"""OCP 8-bit floating point for weights and activations; no infinity, largest value 448."""
e5m2 = Float(5, 2)
"""OCP 8-bit floating point for gradients; IEEE conventions, largest value 57344."""
e3m2 = Float(3, 2, specials="none")
"""OCP MX 6-bit floating point."""
e2m3 = Float(2, 3, specials="none")
"""OCP MX 6-bit floating point."""
e2m1 = Float(2, 1, specials="none")
"""OCP MX 4-bit floating point."""

FORMATS: dict[str, Format] = {
    "fp32": fp32,
    "fp16": fp16,
    "bf16": bf16,
    "e4m3fn": e4m3fn,
    "e5m2": e5m2,
    "e3m2": e3m2,
    "e2m3": e2m3,
    "e2m1": e2m1,
}
"""The named formats."""
_NAMES.update({fmt: name for name, fmt in FORMATS.items() if isinstance(fmt, Float)})
