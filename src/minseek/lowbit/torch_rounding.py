"""Rounding in PyTorch operations, on any device, with the algorithm and the bits of the kernels in C."""

from __future__ import annotations

import torch
from torch import Tensor

from minseek.lowbit.grid import CARRIERS, ROUNDINGS, Grid
from minseek.lowbit.philox import draws

_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def round_torch(x: Tensor, grid: Grid, seed: int, stream: int, first: int) -> Tensor:
    """Round contiguous float32 or float64 numbers; see kernels/rounding.h, whose variable names these are."""
    carrier, mode = CARRIERS[x.dtype], ROUNDINGS[grid.mode]
    width = carrier.mantissa
    size = x.abs().view(_INTEGERS[x.dtype]).to(torch.int64)
    negative = x.signbit()
    code = size >> width
    exponent = code.clamp(min=1) - carrier.greatest
    sig = (size & ((1 << width) - 1)) | ((code > 0).to(torch.int64) << width)
    spacing = torch.where(exponent >= grid.least, exponent - grid.mantissa, grid.quantum)
    drop = (spacing - exponent + width).clamp(min=0)
    q = exponent - width + drop
    shift = drop.clamp(max=width + 2)  # from there on, all of it is less than half a spacing
    count, rest = sig >> shift, sig & ((1 << shift) - 1)
    half = torch.where(shift == 0, 1, (1 << shift) >> 1)
    if mode == "nearest-even":
        away = rest + (count & 1) > half
    elif mode == "nearest-away":
        away = rest >= half
    elif mode == "toward-zero":
        away = torch.zeros_like(negative)
    elif mode == "up":
        away = (rest != 0) & ~negative
    elif mode == "down":
        away = (rest != 0) & negative
    else:
        random = draws(x.numel(), grid.random_bits, seed, stream, first, x.device).view(x.shape)
        away = _by_chance(rest, drop, width, grid.random_bits, random)
    spacings = count + away
    value = spacings.to(x.dtype) * _power(q >> 1, x.dtype) * _power(q - (q >> 1), x.dtype)
    most = _of_sign(negative, grid.lowest, grid.highest, x)
    sign = negative & ((spacings != 0) | grid.negative_zero)
    result = torch.where(sign, -value, value)
    result = torch.where(value > most, _of_sign(negative, grid.under, grid.over, x), result)
    result = torch.where(x.isinf(), _of_sign(negative, grid.minus_infinity, grid.infinity, x), result)
    return torch.where(x.isnan(), x, result)


def _of_sign(negative: Tensor, minus: float, plus: float, x: Tensor) -> Tensor:
    return torch.where(negative, x.new_tensor(minus), x.new_tensor(plus))


def _by_chance(rest: Tensor, drop: Tensor, width: int, bits: int, random: Tensor) -> Tensor:
    """True where a fraction, `rest` of 2^drop, rounds away from zero: its first bits, rounded to nearest even, plus a
    random number of as many bits reach one."""
    up, down = (bits - drop).clamp(min=0), (drop - bits).clamp(min=0, max=width + 3)  # more is less than half
    kept, lost = rest >> down, rest & ((1 << down) - 1)
    half = torch.where(down == 0, 1, (1 << down) >> 1)
    fraction = (kept + (lost + (kept & 1) > half)) << up
    return fraction + random >= 1 << bits


def _power(n: Tensor, dtype: torch.dtype) -> Tensor:
    """2^n for n in the exponents of normal numbers, from its bits, which is exact on every device."""
    carrier, integer = CARRIERS[dtype], _INTEGERS[dtype]
    return ((n + carrier.greatest) << carrier.mantissa).to(integer).view(dtype)
