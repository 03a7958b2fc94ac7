"""Interface of number formats."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from minseek.errors import InputError

_GRID_BITS = 20  # grids of more bits are too long to list


class Format(ABC):
    """A finite set of values that numbers are rounded to.

    Attributes
    ----------
    quantum : int
        Exponent of two of the finest grid spacing, that at zero.
    saturate : bool
        True if too large numbers become the largest value, False if they become an infinity or a NaN.
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
        """The most negative finite value."""

    @property
    @abstractmethod
    def smallest(self) -> float:
        """The smallest positive value."""

    @abstractmethod
    def ulp(self, x: Tensor) -> Tensor:
        """Grid spacing at each number, float64 of `x`'s shape; NaN where `x` is not finite.

        It is the distance between the two values around a number or, for a value of the format, to the next one away
        from zero.
        """

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
                f"the grid of {self.name} has about 2^{self.bits} values: up to {_GRID_BITS} bits can be listed"
            )
        up = self._magnitudes()
        down = -up.flip(0)[:-1]
        values = torch.cat((down, up))
        return values[(values >= self.lowest) & (values <= self.largest)]

    def __str__(self) -> str:
        return self.name
