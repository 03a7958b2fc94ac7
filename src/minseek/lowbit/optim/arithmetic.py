"""In which format an optimizer keeps what, and how it rounds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.lowbit.formats import Float, Format, bf16, fp16, fp32
from minseek.lowbit.grid import ROUNDINGS, Grid, Rounding, check_fits, grid_for
from minseek.lowbit.philox import SPAN
from minseek.lowbit.rounding import RoundingSpec, round_grid

OF_DTYPE: dict[torch.dtype, Format] = {
    torch.float64: Float(11, 52),
    torch.float32: fp32,
    torch.bfloat16: bf16,
    torch.float16: fp16,
}
"""What a dtype itself can say."""

ROLES = ("weights", "momenta", "gradients", "update")
STREAMS = (
    *ROLES,
    "squares",
)  # of random numbers; the second moment of AdamW is rounded as its first, by chances of its own
PART = 2**13 * SPAN
"""Elements that are computed at a time: what is wider than the tensors is never longer than this."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that steps of such tensors are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True, eq=False)  # the cache below finds one by its identity: quick, and there is one an optimizer
class PrecisionSpec:
    """Formats of an optimizer's quantities; None where they stay in the tensor's own dtype.

    Attributes
    ----------
    weights, momenta : RoundingSpec or None
        What is kept from step to step; None: in the dtype of the tensor, rounded as `rounding` says.
    gradients, update : RoundingSpec or None
        What passes through a step; None: not rounded.
    rounding : str
        Of what has no mode of its own.
    """

    weights: RoundingSpec | None
    momenta: RoundingSpec | None
    gradients: RoundingSpec | None
    update: RoundingSpec | None
    rounding: Rounding

    @classmethod
    def of(cls, rounding: Rounding, **formats: Format | RoundingSpec | None) -> PrecisionSpec:
        """From what an optimizer was given.

        Raises
        ------
        InputError
            If a rounding mode is unknown, or something is not a format.
        """
        if rounding not in ROUNDINGS:
            raise InputError(f"unknown rounding mode {rounding!r}: choose {', '.join(ROUNDINGS)}")
        rounded: dict[str, RoundingSpec | None] = dict.fromkeys(ROLES)
        for role, fmt in formats.items():
            if fmt is not None and not isinstance(fmt, Format | RoundingSpec):
                raise InputError(f"{role} takes a Format or a RoundingSpec, not {fmt!r}")
            rounded[role] = RoundingSpec(fmt, rounding) if isinstance(fmt, Format) else fmt
        return cls(**rounded, rounding=rounding)

    def kept_in(self, role: str, dtype: torch.dtype) -> Format:
        """The format of weights or momenta."""
        given: RoundingSpec | None = getattr(self, role)
        return given.fmt if given else OF_DTYPE.get(dtype, fp32)

    def check(self, dtype: torch.dtype) -> None:
        """Refuse formats that tensors of a dtype cannot hold."""
        for role in ("weights", "momenta"):
            check_fits(self.kept_in(role, dtype), dtype)
        for role in ROLES:
            self.grid(role, dtype)

    @cache  # noqa: B019 (few, small, and as long-lived as their optimizer)
    def grid(self, role: str, dtype: torch.dtype) -> Grid | None:
        """Onto what a quantity of tensors of a dtype is rounded; None where that changes nothing."""
        given: RoundingSpec | None = getattr(self, role)
        if given is None:
            if role in ("gradients", "update"):
                return None
            given = RoundingSpec(OF_DTYPE[dtype], self.rounding)
        if given.fmt == OF_DTYPE[wide(dtype)]:
            return None
        return grid_for(given.fmt, given.rounding, given.random_bits, wide(dtype))

    def exact(self, dtype: torch.dtype) -> bool:
        """Whether nothing is rounded but by PyTorch's own operations on that dtype."""
        return dtype == wide(dtype) and all(self.grid(role, dtype) is None for role in ROLES)

    def by_chance(self, dtype: torch.dtype) -> bool:
        """Whether a step draws random numbers."""
        grids = (self.grid(role, dtype) for role in ROLES)
        return any(grid is not None and ROUNDINGS[grid.mode] == "stochastic" for grid in grids)


@dataclass(frozen=True)
class Part:
    """A stretch of a tensor during one step, and where its random numbers come from."""

    arithmetic: PrecisionSpec
    dtype: torch.dtype
    seed: int
    tensor: int
    start: int

    def rounded(self, numbers: Tensor, role: str, stream: str | None = None) -> Tensor:
        """Round numbers that nobody else needs as they are, by the chances of `stream`, or else of the role."""
        grid = self.arithmetic.grid(role, self.dtype)
        if grid is None:
            return numbers
        chances = stream_of(self.tensor, stream or role)
        return round_grid(numbers, grid, self.seed, chances, self.start // SPAN, out=numbers)


def stream_of(tensor: int, name: str) -> int:
    """The random numbers of a tensor's quantity: each has its own."""
    return len(STREAMS) * tensor + STREAMS.index(name)


def parts(arithmetic: PrecisionSpec, seed: int, tensor: int, *tensors: Tensor) -> Iterator[tuple[Part, list[Tensor]]]:
    """Stretches of tensors of one size, flat, as views that can be written to."""
    flat = [t.detach().view(-1) for t in tensors]
    for start in range(0, flat[0].numel(), PART):
        part = Part(arithmetic, flat[0].dtype, seed, tensor, start)
        yield part, [t[start : start + PART] for t in flat]
