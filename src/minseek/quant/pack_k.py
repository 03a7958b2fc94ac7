"""Quantizers of the K-formats: blocks of 256 weights in groups of 16 or 32, with scales that are themselves quantized.

The layouts are llama.cpp's; `gguf.quants` reads all of them and writes none.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.quant.scale_search import Floats, search_scale, search_scale_and_minimum

Bytes = NDArray[Any]  # uint8; NumPy's stubs widen it in every operation


def pack_q2_k(x: Floats) -> Bytes:
    """Blocks of x [N, 256] in q2_k, [N, 84]."""
    d, dmin, scales, minima, levels = _affine(*_with_weights(x, 16), 3, np.arange(-0.5, 1.05, 0.1), 15, 16)
    return np.concatenate([scales | minima << 4, _two_bits(levels), d, dmin], axis=1)


def pack_q4_k(x: Floats) -> Bytes:
    """Blocks of x [N, 256] in q4_k, [N, 144]."""
    d, dmin, scales, minima, levels = _affine(*_with_weights(x, 32), 15, np.arange(-1, 1.05, 0.1), 63, 8)
    return np.concatenate([d, dmin, _six_bits(scales, minima), _nibbles(levels.reshape(-1, 4, 2, 32))], axis=1)


def pack_q5_k(x: Floats) -> Bytes:
    """Blocks of x [N, 256] in q5_k, [N, 176]."""
    d, dmin, scales, minima, levels = _affine(*_with_weights(x, 32), 31, np.arange(-0.5, 1.05, 0.1), 63, 8)
    low = _nibbles(levels.reshape(-1, 4, 2, 32) & 15)
    return np.concatenate([d, dmin, _six_bits(scales, minima), _bits(levels >> 4), low], axis=1)


def pack_q3_k(x: Floats) -> Bytes:
    """Blocks of x [N, 256] in q3_k, [N, 110]."""
    d, scales, levels = _symmetric(x, 4, 32)
    scales = (scales + 32).astype(np.uint8)
    low = scales[:, :8] & 15 | (scales[:, 8:] & 15) << 4
    high = np.bitwise_or.reduce((scales >> 4).reshape(-1, 4, 4) << (2 * np.arange(4, dtype=np.uint8))[:, None], axis=1)
    levels = (levels + 4).astype(np.uint8)
    return np.concatenate([_bits(levels >> 2), _two_bits(levels & 3), low, high, d], axis=1)


def pack_q6_k(x: Floats) -> Bytes:
    """Blocks of x [N, 256] in q6_k, [N, 210]."""
    d, scales, levels = _symmetric(x, 32, 128)
    levels = (levels + 32).astype(np.uint8)
    low = _nibbles(levels.reshape(-1, 2, 2, 64) & 15)
    return np.concatenate([low, _two_bits(levels >> 4), scales.astype(np.int8).view(np.uint8), d], axis=1)


def _with_weights(x: Floats, size: int) -> tuple[Floats, Floats]:
    """Groups, and the weights of errors: larger for larger weights of the model, as llama.cpp has them for q4_k."""
    groups = x.reshape(-1, size)
    magnitude = np.sqrt(np.einsum("ij,ij->i", groups, groups) / np.float32(size))
    return groups, np.abs(groups) + magnitude[:, None]


def _affine(
    groups: Floats, weights: Floats, max_level: int, offsets: NDArray[np.float64], max_scale: int, per_block: int
) -> tuple[Bytes, Bytes, Bytes, Bytes, Bytes]:
    """Bytes of d and dmin [N, 2], quantized scales and minima [N, per_block], and levels [N, 256]."""
    scales, minima = search_scale_and_minimum(groups, weights, max_level, offsets)
    d, scale_levels, scales = _quantize_scales(scales.reshape(-1, per_block), max_scale)
    dmin, minimum_levels, minima = _quantize_scales(minima.reshape(-1, per_block), max_scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = (groups + minima.reshape(-1, 1)) / scales.reshape(-1, 1)
    levels = np.clip(np.rint(np.nan_to_num(levels, nan=0, posinf=0, neginf=0)), 0, max_level)
    return d, dmin, scale_levels, minimum_levels, levels.astype(np.uint8).reshape(-1, 256)


def _quantize_scales(scales: Floats, max_scale: int) -> tuple[Bytes, Bytes, Floats]:
    """Bytes of the factor of a block's scales, their levels, and what they are then."""
    d = (scales.max(axis=1, keepdims=True) / max_scale).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.nan_to_num(scales / d.astype(np.float32), nan=0, posinf=0)
    levels = np.clip(np.rint(levels), 0, max_scale).astype(np.uint8)
    return d.view(np.uint8), levels, d.astype(np.float32) * levels


def _symmetric(x: Floats, half: int, half_scale: int) -> tuple[Bytes, NDArray[np.int32], NDArray[np.int32]]:
    """Bytes of d [N, 2], signed scales of 16 groups [N, 16], and signed levels [N, 256]."""
    groups = x.reshape(-1, 16)

    def to_levels(values: Floats) -> Floats:
        return np.clip(np.rint(values), -half, half - 1)

    scales = search_scale(groups, to_levels, -half, np.arange(-0.9, 0.95, 0.1)).reshape(-1, 16)
    largest = scales[np.arange(len(scales)), np.abs(scales).argmax(axis=1)][:, None]
    d = (largest / -half_scale).astype(np.float16)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale_levels = np.nan_to_num(scales / d.astype(np.float32), nan=0, posinf=0, neginf=0)
        scale_levels = np.clip(np.rint(scale_levels), -half_scale, half_scale - 1)
        steps = (d.astype(np.float32) * scale_levels).reshape(-1, 1)
        levels = np.nan_to_num(groups / steps, nan=0, posinf=0, neginf=0)
    return d.view(np.uint8), scale_levels.astype(np.int32), to_levels(levels).astype(np.int32).reshape(-1, 256)


def _nibbles(levels: Bytes) -> Bytes:
    """Levels [N, parts, 2, size] of 4 bits as bytes [N, parts * size], the first of each two in the low half."""
    return np.asarray(levels[:, :, 0] | levels[:, :, 1] << 4).reshape(len(levels), -1)


def _two_bits(levels: Bytes) -> Bytes:
    """Levels [N, 256] of 2 bits as bytes [N, 64]: four runs of 32 share 32 bytes."""
    shifts = (2 * np.arange(4, dtype=np.uint8))[:, None]
    return np.asarray(np.bitwise_or.reduce(levels.reshape(-1, 2, 4, 32) << shifts, axis=2)).reshape(len(levels), -1)


def _bits(levels: Bytes) -> Bytes:
    """Levels [N, 256] of 1 bit as bytes [N, 32]: eight runs of 32 share them."""
    return np.asarray(np.bitwise_or.reduce(levels.reshape(-1, 8, 32) << np.arange(8, dtype=np.uint8)[:, None], axis=1))


def _six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and minima of 6 bits each as bytes [N, 12]."""
    first = scales[:, :4] | scales[:, 4:] >> 4 << 6
    second = minima[:, :4] | minima[:, 4:] >> 4 << 6
    return np.concatenate([first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4], axis=1)
