"""Rotary position embedding (RoPE), and its change when a key moves."""

from __future__ import annotations

import torch
from torch import Tensor


class Rotary:
    """Rotations of a head's two halves against each other, one angle for each pair of dimensions.

    Everything is computed in float32 and rounded once to the dtype of the rotated tensor.

    Parameters
    ----------
    inv_freq : Tensor
        [D/2], float32: angle per position, scalings such as YaRN included.
    scaling : float
        Factor on every cosine and sine (YaRN's attention factor; 1 elsewhere). `shift` leaves it out, since the keys
        carry it already.
    """

    def __init__(self, inv_freq: Tensor, scaling: float = 1.0) -> None:
        self.inv_freq = inv_freq.float()
        self.scaling = scaling
        self._cos = self._sin = inv_freq.new_empty(0, len(inv_freq), dtype=torch.float32)

    def at(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions ``start .. start + count - 1``, float32, [count, D/2] each."""
        if start + count > len(self._cos):
            size = max(start + count, 2 * len(self._cos), 256)
            self._cos, self._sin = self.of(torch.arange(size, device=self.inv_freq.device))
        return self._cos[start : start + count], self._sin[start : start + count]

    def of(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [T], float32, [T, D/2] each, not cached."""
        angles = positions.float()[:, None] * self.inv_freq
        return angles.cos() * self.scaling, angles.sin() * self.scaling

    def shift(self, keys: Tensor, by: int) -> Tensor:
        """Move rotated keys [..., D] by that many positions: one rotation by the difference of the angles."""
        angles = by * self.inv_freq
        return rotate(keys, angles.cos(), angles.sin())


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` [..., T, D] by angles given as cosines and sines [T, D/2] or [D/2]; the dtype stays."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
