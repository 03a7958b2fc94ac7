"""Rounding to a format."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.errors import InputError, check_type
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import ROUNDINGS, Grid, Rounding, grid_for
from minseek.lowbit.native import library, round_native
from minseek.lowbit.philox import SPAN, draw_seed
from minseek.lowbit.torch_rounding import round_torch
from minseek.native.pages import huge_bytes

__all__ = ["ROUNDINGS", "Rounding", "RoundingSpec", "round_grid", "round_to"]

_CHUNK = 2**13 * SPAN  # elements at a time in PyTorch operations, which make many temporaries


@dataclass(frozen=True)
class RoundingSpec:
    """A format with a rounding mode.

    Parameters
    ----------
    fmt : Format
    rounding : str
        One of `ROUNDINGS`.
    random_bits : int, optional
        Random bits of stochastic rounding, as in `round_to`.
    """

    fmt: Format
    rounding: Rounding = "stochastic"
    random_bits: int | None = None


def round_to(
    x: Tensor,
    fmt: Format,
    rounding: Rounding = "nearest-even",
    *,
    generator: torch.Generator | None = None,
    random_bits: int | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Round each number to a value of a format, once and exactly.

    Parameters
    ----------
    x : Tensor
        Numbers of any shape in float64, float32, bfloat16 or float16, on any device. The dtype must have all values of
        the format.
    fmt : Format
        A format such as `minseek.lowbit.bf16` or ``Fixed(8, 4)``.
    rounding : str
        "nearest-even", "nearest-away", "toward-zero", "up", "down" or "stochastic".
    generator : torch.Generator, optional
        Source of stochastic rounding, by default PyTorch's global one. One draw from it seeds the random numbers of a
        call, which are equal on every device and with any number of threads.
    random_bits : int, optional
        1 to 32: a number is rounded away from zero with a probability that is a multiple of 2^-random_bits, the
        fraction of a grid spacing rounded to nearest even. Without it, 16 where that is exact, as from float32 to bf16,
        else 32.
    out : Tensor, optional
        Tensor for the results, of `x`'s shape and dtype; may be `x`.

    Returns
    -------
    Tensor
        The results, of `x`'s shape and dtype; `out` if that is given. No gradient flows through it.

    Raises
    ------
    InputError
        If the dtype lacks values of the format, or an argument is unknown or has no effect.
    TypeError
        If `x` or `out` is not a tensor, or `fmt` not a format.

    Notes
    -----
    A number beyond the largest value is first rounded as if there were larger exponents; if it is still beyond, it
    becomes the largest value, an infinity or NaN, depending on the format and the mode (IEEE 754: toward-zero never
    overflows, nor does down above zero). A value of the format is never changed. NaN stays NaN.
    """
    check_type("x must be a tensor", x, Tensor, ": give torch.tensor(…)")
    check_type("fmt must be a format", fmt, Format, ": give one such as minseek.lowbit.bf16 or Fixed(8, 4)")
    if out is not None:
        check_type("out must be a tensor", out, Tensor)
    grid = grid_for(fmt, rounding, random_bits, x.dtype)
    if generator is not None and rounding != "stochastic":
        raise InputError(f"a generator has no effect with rounding={rounding!r}: leave it out")
    if out is not None:
        expected, given = _describe(x), _describe(out)
        if expected != given:
            raise InputError(f"out must be like x, {expected}, not {given}")
    seed = draw_seed(generator) if rounding == "stochastic" else 0
    numbers = x.detach().contiguous()
    if out is None:
        return round_grid(numbers, grid, seed)
    rounded = round_grid(numbers, grid, seed, out=out.detach() if out.is_contiguous() else None)
    if not out.is_contiguous():
        out.detach().copy_(rounded)
    torch.autograd.graph.increment_version(out)  # autograd does not see the writes of the kernels in C
    return out


def _describe(x: Tensor) -> str:
    return f"{tuple(x.shape)} {x.dtype} on {x.device}"


def round_grid(x: Tensor, grid: Grid, seed: int, stream: int = 0, first: int = 0, out: Tensor | None = None) -> Tensor:
    """Round contiguous numbers to a grid, with the random numbers of a seed and a stream from span `first` on."""
    out = _empty_like(x) if out is None else out
    if x.dtype in (torch.bfloat16, torch.float16):
        for chunk, target, span in _chunks(x, out, first):
            # exact: the dtype has all values of the format
            target.copy_(round_grid(chunk.float(), grid, seed, stream, span))
        return out
    kernels = library() if x.device.type == "cpu" else None
    if kernels is not None:
        round_native(kernels, x, out, grid, seed, stream, first)
        return out
    for chunk, target, span in _chunks(x, out, first):
        target.copy_(round_torch(chunk, grid, seed, stream, span))
    return out


def _empty_like(x: Tensor) -> Tensor:
    """Memory for results, on huge pages if large: requesting small pages one by one takes longer than the rounding."""
    if x.device.type != "cpu":
        return torch.empty_like(x)
    memory = huge_bytes(x.nbytes)
    # Not a view of the bytes: autograd treats views differently.
    out, start = torch.empty(0, dtype=x.dtype), int(memory.storage_offset()) // x.itemsize
    return out.set_(memory.untyped_storage(), start, x.shape, x.stride())


def _chunks(x: Tensor, out: Tensor, first: int) -> list[tuple[Tensor, Tensor, int]]:
    """Chunks of both tensors, each with its first span."""
    x, out, starts = x.view(-1), out.view(-1), range(0, x.numel(), _CHUNK)
    return [(x[at : at + _CHUNK], out[at : at + _CHUNK], first + at // SPAN) for at in starts]
