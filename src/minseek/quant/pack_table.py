"""Quantizers of the formats with a fixed table of 16 values: iq4_nl and iq4_xs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minseek.quant.scale_search import Floats, search_scale

_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_HALVES = np.arange(-256, 256) / 2 + 0.25  # middles of half steps: no two of them are nearest to different values
_INDEX = np.abs(_HALVES[:, None] - _VALUES).argmin(axis=1).astype(np.uint8)
_OFFSETS = range(-7, 8)


def pack_iq4_nl(x: Floats) -> NDArray[np.uint8]:
    """Blocks of x [N, 32] in iq4_nl, [N, 18]."""
    scales = search_scale(x, _nearest, float(_VALUES[0]), _OFFSETS)
    d = scales.astype(np.float16)[:, None]
    return np.concatenate([d.view(np.uint8), _nibbles(_indices(x, d.astype(np.float32)))], axis=1)


def pack_iq4_xs(x: Floats) -> NDArray[np.uint8]:
    """Blocks of x [N, 256] in iq4_xs, [N, 136]."""
    groups = x.reshape(-1, 32)
    scales = search_scale(groups, _nearest, float(_VALUES[0]), _OFFSETS).reshape(-1, 8)
    largest = scales[np.arange(len(scales)), np.abs(scales).argmax(axis=1)][:, None]
    d = (largest / -32).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.nan_to_num(scales / d.astype(np.float32), nan=0, posinf=0, neginf=0)
    levels = np.clip(np.rint(levels), -32, 31)
    indices = _indices(groups, (d.astype(np.float32) * levels).reshape(-1, 1))
    stored = (levels + 32).astype(np.uint8)
    low = stored[:, 0::2] & 15 | (stored[:, 1::2] & 15) << 4
    high = np.bitwise_or.reduce((stored >> 4).astype(np.uint16) << (2 * np.arange(8, dtype=np.uint16)), axis=1)
    return np.concatenate(
        [d.view(np.uint8), high[:, None].view(np.uint8), low, _nibbles(indices).reshape(len(x), -1)], axis=1
    )


def _nearest(values: Floats) -> Floats:
    return _VALUES[_nearest_index(values)]


def _nearest_index(values: Floats) -> NDArray[np.uint8]:
    return np.asarray(_INDEX[np.clip(2 * values + 256, 0, 511).astype(np.int16)])


def _indices(x: Floats, scales: Floats) -> NDArray[np.uint8]:
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.nan_to_num(x / scales, nan=0, posinf=0, neginf=0)
    return _nearest_index(values)


def _nibbles(indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(indices[:, :16] | indices[:, 16:] << 4, np.uint8)
