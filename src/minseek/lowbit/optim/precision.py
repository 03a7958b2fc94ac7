"""Formats and rounding of an optimizer's quantities, and chunks of tensors that a step works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.lowbit.formats import Float, Format, bf16, fp16, fp32
from minseek.lowbit.grid import ROUNDINGS, Grid, Rounding, check_fits, grid_for
from minseek.lowbit.philox import SPAN
from minseek.lowbit.rounding import RoundingSpec, round_grid

DTYPE_FORMATS: dict[torch.dtype, Format] = {
    torch.float64: Float(11, 52),
    torch.float32: fp32,
    torch.bfloat16: bf16,
    torch.float16: fp16,
}
"""The format of all values of a dtype."""

ROLES = ("weights", "momenta", "gradients", "update")
_STREAMS = (*ROLES, "squares")  # AdamW's second moment has the format of its first, but its own random numbers
CHUNK = 2**13 * SPAN
"""Elements of a chunk: no temporary of a step is longer."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype in which steps of tensors of a dtype are computed."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)  # hashed by identity in the cache below: fast, and each optimizer has one
class PrecisionSpec:
    """Formats of an optimizer's quantities.

    Attributes
    ----------
    weights, momenta : RoundingSpec or None
        Quantities kept between steps; None: in the dtype of the tensor, rounded by `rounding`.
    gradients, update : RoundingSpec or None
        Temporary quantities of a step; None: not rounded.
    rounding : str
        Mode of formats without their own.
    """

    weights: RoundingSpec | None
    momenta: RoundingSpec | None
    gradients: RoundingSpec | None
    update: RoundingSpec | None
    rounding: Rounding

    @classmethod
    def of(cls, rounding: Rounding, **formats: Format | RoundingSpec | None) -> PrecisionSpec:
        """Make it from the arguments of an optimizer.

        Raises
        ------
        InputError
            If a rounding mode is unknown, or an argument is not a format.
        """
        if rounding not in ROUNDINGS:
            raise InputError(f"unknown rounding mode {rounding!r}: choose {', '.join(ROUNDINGS)}")
        rounded: dict[str, RoundingSpec | None] = dict.fromkeys(ROLES)
        for role, fmt in formats.items():
            if fmt is not None and not isinstance(fmt, Format | RoundingSpec):
                raise InputError(f"{role} takes a Format or a RoundingSpec, not {fmt!r}")
            rounded[role] = RoundingSpec(fmt, rounding) if isinstance(fmt, Format) else fmt
        return cls(**rounded, rounding=rounding)

    def format_of(self, role: str, dtype: torch.dtype) -> Format:
        """Format in which weights or momenta are stored."""
        given: RoundingSpec | None = getattr(self, role)
        return given.fmt if given else DTYPE_FORMATS.get(dtype, fp32)

    def check(self, dtype: torch.dtype) -> None:
        """Refuse formats that do not fit tensors of a dtype."""
        for role in ("weights", "momenta"):
            check_fits(self.format_of(role, dtype), dtype)
        for role in ROLES:
            self.grid(role, dtype)

    @cache  # noqa: B019 (few, small, and as long-lived as their optimizer)
    def grid(self, role: str, dtype: torch.dtype) -> Grid | None:
        """Grid for a quantity of tensors of a dtype; None where rounding changes nothing."""
        given: RoundingSpec | None = getattr(self, role)
        if given is None:
            if role in ("gradients", "update"):
                return None
            given = RoundingSpec(DTYPE_FORMATS[dtype], self.rounding)
        if given.fmt == DTYPE_FORMATS[compute_dtype(dtype)]:
            return None
        return grid_for(given.fmt, given.rounding, given.random_bits, compute_dtype(dtype))

    def exact(self, dtype: torch.dtype) -> bool:
        """True if only PyTorch's own operations on that dtype round."""
        return dtype == compute_dtype(dtype) and all(self.grid(role, dtype) is None for role in ROLES)

    def is_stochastic(self, dtype: torch.dtype) -> bool:
        """True if a step draws random numbers."""
        grids = (self.grid(role, dtype) for role in ROLES)
        return any(grid is not None and ROUNDINGS[grid.mode] == "stochastic" for grid in grids)


@dataclass(frozen=True)
class Chunk:
    """A chunk of a tensor during one step, and the source of its random numbers."""

    precision: PrecisionSpec
    dtype: torch.dtype
    seed: int
    tensor: int
    start: int

    def rounded(self, numbers: Tensor, role: str, stream: str | None = None) -> Tensor:
        """Round numbers in place, with the random numbers of `stream`, by default those of the role."""
        grid = self.precision.grid(role, self.dtype)
        if grid is None:
            return numbers
        stream_index = stream_of(self.tensor, stream or role)
        return round_grid(numbers, grid, self.seed, stream_index, self.start // SPAN, out=numbers)


def stream_of(tensor: int, name: str) -> int:
    """Stream of random numbers for a quantity of a tensor; no two share one."""
    return len(_STREAMS) * tensor + _STREAMS.index(name)


def step_options(group: dict[str, Any]) -> dict[str, Any]:
    """Options of a parameter group for a step, with Python numbers in place of tensors."""
    options: dict[str, Any] = {n: v.item() if isinstance(v, Tensor) else v for n, v in group.items() if n != "params"}
    if "betas" in options:
        options["betas"] = tuple(map(float, options["betas"]))
    return options


@contextmanager
def flattened(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Flat views of tensors in the order of their indices, whatever their layout, to read and to write.

    A tensor that is not contiguous is copied, and copied back at the end.
    """
    own = [t.detach() for t in tensors]
    compact = [t.contiguous() for t in own]
    yield [t.view(-1) for t in compact]
    for t, copy in zip(own, compact, strict=True):
        if copy is not t:
            t.copy_(copy)


def chunks(precision: PrecisionSpec, seed: int, tensor: int, *tensors: Tensor) -> Iterator[tuple[Chunk, list[Tensor]]]:
    """Chunks of flat tensors of one size, as views that can be written to."""
    for start in range(0, tensors[0].numel(), CHUNK):
        chunk = Chunk(precision, tensors[0].dtype, seed, tensor, start)
        yield chunk, [t[start : start + CHUNK] for t in tensors]
