"""Random points near the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from minseek.lowbit.grid import Grid, grid_for
from minseek.lowbit.optim.precision import CHUNK, DTYPE_FORMATS, compute_dtype, flattened
from minseek.lowbit.philox import SPAN, draw_seed
from minseek.lowbit.rounding import round_grid

Shape = Literal["ball", "box"]


class Perturbation:
    """Perturbation u, uniform in the l2 ball of a radius or in the box [-radius, radius]^d, of all tensors together.

    It is not stored but generated from a seed, a chunk at a time.

    Parameters
    ----------
    tensors : list of Tensor
        The weights, with d elements in all.
    radius : float
    shape : {"ball", "box"}
    generator : torch.Generator, optional
    """

    def __init__(self, tensors: list[Tensor], radius: float, shape: Shape, generator: torch.Generator | None) -> None:
        self._tensors, self._shape, self._seed = tensors, shape, draw_seed(generator)
        self._scale = radius
        if shape == "ball":
            dims = sum(t.numel() for t in tensors)
            if dims == 0:
                return
            squares = sum(
                float(noise.double().square().sum())
                for number, tensor in enumerate(tensors)
                for _, noise in self._noise(number, tensor)
            )
            share = _uniform(self._seed) ** (1 / dims)  # of the radius: volume grows as its dims-th power
            self._scale = radius * share / math.sqrt(squares) if squares else 0.0

    def _noise(self, number: int, tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
        """For each chunk of a tensor: its first element, and noise in the dtype of the computation."""
        source = torch.Generator(tensor.device).manual_seed((self._seed + number) % 2**63)
        for start in range(0, tensor.numel(), CHUNK):
            count = min(CHUNK, tensor.numel() - start)
            noise = torch.empty(count, dtype=compute_dtype(tensor.dtype), device=tensor.device)
            if self._shape == "ball":
                noise.normal_(generator=source)
            else:
                noise.uniform_(-1, 1, generator=source)
            yield start, noise

    def apply(self) -> None:
        """Add u to the tensors, in the dtype of the computation.

        Where the tensors' own dtype is narrower, the sums are rounded to it stochastically: rounding to nearest would
        lose a perturbation below half the grid spacing.
        """
        for number, tensor in enumerate(self._tensors):
            grid = _own_grid(tensor.dtype)
            with flattened(tensor) as (flat,):
                for start, noise in self._noise(number, tensor):
                    chunk = flat[start : start + CHUNK]
                    moved = noise.mul_(self._scale).add_(chunk)
                    if grid is not None:
                        round_grid(moved, grid, self._seed, number, start // SPAN, out=moved)
                    chunk.copy_(moved)


def _own_grid(dtype: torch.dtype) -> Grid | None:
    """Grid of stochastic rounding to a dtype; None where the computation has the same dtype."""
    computed = compute_dtype(dtype)
    return None if dtype == computed else grid_for(DTYPE_FORMATS[dtype], "stochastic", None, computed)


def _uniform(seed: int) -> float:
    generator = torch.Generator().manual_seed((seed ^ (2**63 - 1)) % 2**63)
    return float(torch.rand((), dtype=torch.float64, generator=generator))
