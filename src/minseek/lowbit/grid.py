"""Grid parameters of a format, in the form that rounding uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch

from minseek.errors import InputError, check_type
from minseek.lowbit.formats import Fixed, Float, Format

Rounding = Literal["nearest-even", "nearest-away", "toward-zero", "up", "down", "stochastic"]

ROUNDINGS: tuple[Rounding, ...] = ("nearest-even", "nearest-away", "toward-zero", "up", "down", "stochastic")
"""The rounding modes: to the nearest value, with ties to the one whose last bit is 0 or to the one away from zero;
toward zero, plus infinity or minus infinity; and up or down at random, with the probabilities that leave the mean
unchanged."""

_FIXED_MANTISSA, _FIXED_LEAST = 0, 1 << 20  # no exponent is that high: all spacings are the quantum


@dataclass(frozen=True)
class Carrier:
    """Parameters of a dtype whose numbers are rounded: bits of its mantissa, exponents of its normal values."""

    mantissa: int
    least: int
    greatest: int

    @property
    def quantum(self) -> int:
        """Exponent of the grid spacing at zero."""
        return self.least - self.mantissa


CARRIERS = {
    torch.float64: Carrier(52, -1022, 1023),
    torch.float32: Carrier(23, -126, 127),
    torch.bfloat16: Carrier(7, -126, 127),
    torch.float16: Carrier(10, -14, 15),
}


@dataclass(frozen=True)
class Grid:
    """Parameters of a rounding, in the order of kernels/grid.h.

    Attributes
    ----------
    mantissa, least, quantum : int
        The spacing at a number of exponent E is 2^(E - mantissa) from E = `least` on, 2^quantum below.
    highest, lowest : float
        Magnitudes of the largest value and of the most negative one.
    over, under : float
        Results for finite numbers beyond them.
    infinity, minus_infinity : float
        Results for infinities.
    mode : int
        Index in `ROUNDINGS`.
    random_bits : int
        Bits of the random number of a stochastic rounding.
    negative_zero : bool
        True if the format has a negative zero.
    """

    mantissa: int
    least: int
    quantum: int
    highest: float
    lowest: float
    over: float
    under: float
    infinity: float
    minus_infinity: float
    mode: int
    random_bits: int
    negative_zero: bool


def grid_for(fmt: Format, rounding: Rounding, random_bits: int | None, dtype: torch.dtype) -> Grid:
    """Make the grid of a format for numbers of a dtype.

    Raises
    ------
    InputError
        If the mode is unknown, the random bits are not 1 to 32, or the dtype cannot hold the format's values.
    """
    if rounding not in ROUNDINGS:
        raise InputError(f"unknown rounding mode {rounding!r}: choose {', '.join(ROUNDINGS)}")
    if random_bits is not None and rounding != "stochastic":
        raise InputError(f"random_bits has no effect with rounding={rounding!r}: leave it out")
    if random_bits is not None:
        check_type("random_bits must be an integer", random_bits, Integral)
        if not 1 <= random_bits <= 32:
            raise InputError(f"random_bits must be 1 to 32, not {random_bits}")
    check_fits(fmt, dtype)
    beyond = _beyond(fmt)
    cut_above, cut_below = (
        fmt.saturate or rounding in ("toward-zero", "down"),
        fmt.saturate or rounding in ("toward-zero", "up"),
    )
    return Grid(
        mantissa=fmt.mantissa_bits if isinstance(fmt, Float) else _FIXED_MANTISSA,
        least=fmt.least_exponent if isinstance(fmt, Float) else _FIXED_LEAST,
        quantum=fmt.quantum,
        highest=fmt.largest,
        lowest=-fmt.lowest,
        over=fmt.largest if cut_above else beyond,
        under=fmt.lowest if cut_below else -beyond,
        infinity=fmt.largest if fmt.saturate else beyond,
        minus_infinity=fmt.lowest if fmt.saturate else -beyond,
        mode=ROUNDINGS.index(rounding),
        random_bits=random_bits or _enough_bits(fmt, dtype),
        negative_zero=isinstance(fmt, Float),
    )


def _beyond(fmt: Format) -> float:
    return math.inf if isinstance(fmt, Float) and fmt.specials == "inf-nan" else math.nan


def _enough_bits(fmt: Format, dtype: torch.dtype) -> int:
    """16 where at most 16 bits are dropped, so that the probabilities are exact; else 32."""
    carrier = CARRIERS[dtype]
    if isinstance(fmt, Float) and fmt.least_exponent == carrier.least and carrier.mantissa - fmt.mantissa_bits <= 16:
        return 16 if fmt.subnormals else 32
    return 32


def check_fits(fmt: Format, dtype: torch.dtype) -> None:
    """Refuse a format with values that a dtype lacks.

    Raises
    ------
    InputError
        If there are any, or the dtype is not float64, float32, bfloat16 or float16.
    """
    if dtype not in CARRIERS:
        raise InputError(f"cannot round numbers of dtype {dtype}: give float64, float32, bfloat16 or float16")
    if not fits(fmt, dtype):
        wider = next((str(kind) for kind in (torch.float32, torch.float64) if fits(fmt, kind)), None)
        remedy = f"give {wider}" if wider else "no dtype has all of them"
        raise InputError(f"{dtype} does not have all values of {fmt.name}: {remedy}")


def fits(fmt: Format, dtype: torch.dtype) -> bool:
    """Return True if a dtype has all values of a format, its normal values as normal ones."""
    carrier = CARRIERS[dtype]
    if isinstance(fmt, Float):
        return (
            fmt.mantissa_bits <= carrier.mantissa
            and fmt.least_exponent >= carrier.least
            and fmt.largest <= torch.finfo(dtype).max
        )
    assert isinstance(fmt, Fixed)
    return (
        fmt.word_length - 2 <= carrier.mantissa
        and fmt.quantum >= carrier.quantum
        and -fmt.lowest <= torch.finfo(dtype).max
    )
