"""Random points near the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from minseek.lowbit.grid import Grid, grid_for
from minseek.lowbit.optim.arithmetic import OF_DTYPE, PART, wide
from minseek.lowbit.philox import SPAN, draw_seed
from minseek.lowbit.rounding import round_grid

Shape = Literal["ball", "box"]


class Perturbation:
    """u, uniform in the l2 ball of a radius, or in the box [-radius, radius]^d, over all given tensors together.

    It is not stored: a seed makes it anew, a stretch at a time.

    Parameters
    ----------
    tensors : list of Tensor
        The weights; d is the number of all their elements.
    radius : float
    shape : {"ball", "box"}
    generator : torch.Generator, optional
    """

    def __init__(self, tensors: list[Tensor], radius: float, shape: Shape, generator: torch.Generator | None) -> None:
        self._tensors, self._shape, self._seed = tensors, shape, draw_seed(generator)
        self._scale = radius
        if shape == "ball":
            dims = sum(t.numel() for t in tensors)
            squares = sum(float(noise.double().square().sum()) for _, _, _, noise in self._noise())
            share = _uniform(self._seed) ** (1 / dims)  # of the radius: the ball's volume grows with its dims-th power
            self._scale = radius * share / math.sqrt(squares) if squares else 0.0

    def _noise(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Of every stretch: the tensor's number, where it starts, the weights, and noise in the dtype of the
        arithmetic."""
        for number, tensor in enumerate(self._tensors):
            flat, kind = tensor.detach().view(-1), wide(tensor.dtype)
            source = torch.Generator(tensor.device).manual_seed((self._seed + number) % 2**63)
            for start in range(0, flat.numel(), PART):
                part = flat[start : start + PART]
                noise = torch.empty(part.shape, dtype=kind, device=part.device)
                if self._shape == "ball":
                    noise.normal_(generator=source)
                else:
                    noise.uniform_(-1, 1, generator=source)
                yield number, start, part, noise

    def apply(self) -> None:
        """Add u to the tensors: in the dtype of the arithmetic, and, where the tensors' own is narrower, rounded to it
        stochastically, as a perturbation below half the grid spacing would otherwise be none."""
        for number, start, part, noise in self._noise():
            moved = noise.mul_(self._scale).add_(part)
            grid = _own_grid(part.dtype)
            if grid is not None:
                round_grid(moved, grid, self._seed, number, start // SPAN, out=moved)
            part.copy_(moved)


def _own_grid(dtype: torch.dtype) -> Grid | None:
    return None if dtype == wide(dtype) else grid_for(OF_DTYPE[dtype], "stochastic", None, wide(dtype))


def _uniform(seed: int) -> float:
    generator = torch.Generator().manual_seed((seed ^ (2**63 - 1)) % 2**63)
    return float(torch.rand((), dtype=torch.float64, generator=generator))
