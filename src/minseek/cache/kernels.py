"""What an eviction computes, in C where the slots lie in main memory, in PyTorch elsewhere; both give the same."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.native import native_status


def ranks(scores: Tensor, weight: float = 1.0, onto: Tensor | None = None) -> Tensor:
    """Each score's rank among the last dimension's, from 0 to `weight`: what makes two signals comparable.

    onto: what they are added to, and where they are left, [same shape], float32.
    """
    library, n = _library(scores), scores.shape[-1]
    if library is not None and (onto is None or onto.is_contiguous()):
        scores = scores.float().contiguous()
        out = torch.empty_like(scores) if onto is None else onto
        rows, add = c_int32(scores.numel() // n), c_int32(onto is not None)
        library.rank_rows(_at(scores), rows, c_int32(n), _threads(), c_float(weight), add, _at(out))
        return out
    order = scores.argsort(dim=-1, stable=True)
    places = (torch.linspace(0, 1, n, device=scores.device) * weight).expand_as(scores)
    given = torch.empty_like(scores, dtype=torch.float32).scatter_(-1, order, places)
    return given if onto is None else onto.add_(given)


def boost_topk(scores: Tensor, notes: Tensor, count: int, least: float, more: float) -> None:
    """Add `more` to scores [L, H, n] whose note [L, H, n] is above `least` and among the `count` highest of its head.

    Of equal notes the later is the higher. Scores are float32, in one piece.
    """
    library, (layers, heads, n) = _library(scores), scores.shape
    if library is None:
        places = topk_sorted(notes, count)
        scores.scatter_add_(-1, places, more * (notes.gather(-1, places) > least).float())
        return
    library.raise_rows(
        *(_at(scores), _at(notes), c_int32(layers), c_int64(notes.stride(0)), c_int32(heads)),
        *(c_int32(notes.stride(1)), c_int32(n), c_int32(count), c_float(least), c_float(more), _threads()),
    )


def topk_sorted(scores: Tensor, count: int) -> Tensor:
    """Places of the `count` highest scores of the last dimension, ascending, int64; of equal ones the later."""
    library, n = _library(scores), scores.shape[-1]
    if library is not None:
        scores = scores.float().contiguous()
        out = torch.empty(*scores.shape[:-1], count, dtype=torch.int64)
        rows = scores.numel() // n
        library.highest_of_rows(_at(scores), c_int32(rows), c_int32(n), c_int32(count), _threads(), _at(out))
        return out
    places: Tensor = scores.argsort(dim=-1, stable=True)[..., n - count :].sort(-1).values
    return places


def cosine_to_mean(keys: Tensor) -> Tensor:
    """Cosine [L, H, n] of each key [L, H, n, D] with the mean of all normalised ones."""
    keys = F.normalize(keys.float(), dim=-1)
    return (keys @ F.normalize(keys.mean(2), dim=-1)[..., None])[..., 0]


def cosine_to_running_mean(values: Tensor, total: Tensor) -> Tensor:
    """The same of values, with the direction of all that there have been so far.

    total: float32 [L, H, D], the sum of the normalised ones, to which these are added.
    """
    if _takes(values):
        return _likeness(values.contiguous(), None, None, None, total)
    values = F.normalize(values.float(), dim=-1)
    total += values.sum(2)
    return (values @ F.normalize(total, dim=-1)[..., None])[..., 0]


def prerope_cosine_to_mean(keys: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """The same of keys [L, H, n, D] without their positions [L, H, n], computed in C; None where that can't be.

    positions: they lie as the keys do, pair by pair. cos, sin: float32 [positions, D/2].
    """
    return None if keys.shape[-1] % 2 or not _takes(keys) else _likeness(keys, positions, cos, sin, None)


def _takes(rows: Tensor) -> bool:
    """Whether the kernels in C take rows [..., D] of this kind."""
    known = rows.dtype in (torch.float32, torch.bfloat16) and rows.shape[-1] <= 512
    return known and _library(rows) is not None


def _likeness(
    keys: Tensor, positions: Tensor | None, cos: Tensor | None, sin: Tensor | None, total: Tensor | None
) -> Tensor:
    library, (layers, heads, n, dim) = _library(keys), keys.shape
    assert library is not None
    out = torch.empty(layers, heads, n)
    library.key_likeness(
        *(_at(keys), _at(positions), _at(cos), _at(sin), c_int32(layers), c_int64(keys.stride(0) // dim)),
        *(c_int32(heads), c_int32(keys.stride(1) // dim), c_int32(n), c_int32(dim), _threads(), _at(total), _at(out)),
    )
    return out


def value_error(weights: Tensor, values: Tensor) -> Tensor:
    """Weights [L, H, n] times the distance of each value [L, H, n, D] from the weighted mean of all."""
    library, (layers, heads, n, dim) = _library(values), values.shape
    if library is None or not _takes(values):
        total = weights.sum(-1)[..., None, None]
        mean = (weights[..., None, :] @ values.float()) / total.clamp_min(torch.finfo(torch.float32).tiny)
        given: Tensor = weights * (values.float() - mean).norm(dim=-1)
        return given
    weights, out = weights.float().contiguous(), torch.empty(layers, heads, n)
    library.value_error(
        *(_at(values), _at(weights), c_int32(layers), c_int64(values.stride(0) // dim), c_int32(heads)),
        *(c_int32(values.stride(1) // dim), c_int32(n), c_int32(dim), _threads(), _at(out)),
    )
    return out


def keep_pairs(tensors: Sequence[Tensor], chosen: Tensor) -> None:
    """Move the chosen pairs [L, H, kept], ascending, to the front of each tensor [L, H, capacity, …]."""
    library, (layers, heads, kept) = _library(tensors[0]), chosen.shape
    if library is None:
        for tensor in tensors:
            index = chosen.view(*chosen.shape, *[1] * (tensor.dim() - 3)).expand(*chosen.shape, *tensor.shape[3:])
            tensor[:, :, :kept] = tensor.gather(2, index)
        return
    chosen, first = chosen.to(torch.int64).contiguous(), tensors[0]
    row = first.stride(2)
    sizes = (c_int64 * len(tensors))(*(t.stride(2) * t.itemsize for t in tensors))
    library.keep_pairs(
        *((c_void_p * len(tensors))(*(t.data_ptr() for t in tensors)), sizes, c_int32(len(tensors))),
        *(c_int32(layers), c_int64(first.stride(0) // row), c_int32(heads), c_int32(first.stride(1) // row)),
        *(_at(chosen), c_int32(kept), _threads()),
    )


def _library(tensor: Tensor) -> ctypes.CDLL | None:
    if tensor.device.type != "cpu":
        return None
    return native_status(torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32).library


def _at(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def _threads() -> c_int32:
    return c_int32(torch.get_num_threads())
