"""Computations of an eviction: in C for slots in main memory, in PyTorch elsewhere, with equal results."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int32, c_int64, c_void_p

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.native import native_status
from minseek.native.structs import CacheView

_MAX_HEAD_DIM = 512  # of evict.c


def ranks(scores: Tensor, weight: float = 1.0, onto: Tensor | None = None) -> Tensor:
    """Rank of each score within the last dimension, from 0 to `weight`, so that several signals can be compared.

    onto: float32 [same shape], to which the ranks are added in place.
    """
    library, n = _library(scores), scores.shape[-1]
    if library is not None and (onto is None or onto.is_contiguous()):
        scores = scores.float().contiguous()
        out = torch.empty_like(scores) if onto is None else onto
        rows, accumulate = c_int32(scores.numel() // n), c_int32(onto is not None)
        _check(library.rank_rows(_ptr(scores), rows, c_int32(n), _threads(), c_float(weight), accumulate, _ptr(out)), n)
        return out
    order = scores.argsort(dim=-1, stable=True)
    values = (torch.linspace(0, 1, n, device=scores.device) * weight).expand_as(scores)
    ranked = torch.empty_like(scores, dtype=torch.float32).scatter_(-1, order, values)
    return ranked if onto is None else onto.add_(ranked)


def boost_topk(scores: Tensor, policy_scores: Tensor, count: int, threshold: float, boost: float) -> None:
    """Add `boost` to scores [L, H, n] whose policy score [L, H, n] exceeds a threshold and is among a head's highest.

    Of equal policy scores the later is the higher. Scores are float32 and contiguous.
    """
    library, n = _library(scores), scores.shape[-1]
    if library is None:
        indices = topk_sorted(policy_scores, count)
        scores.scatter_add_(-1, indices, boost * (policy_scores.gather(-1, indices) > threshold).float())
        return
    view, rest = _view(policy_scores), (c_int32(count), c_float(threshold), c_float(boost))
    _check(library.boost_topk_rows(byref(view), _ptr(policy_scores), *rest, _ptr(scores)), n)


def topk_sorted(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores of the last dimension, ascending, int64; of equal ones the later."""
    library, n = _library(scores), scores.shape[-1]
    if library is not None:
        scores = scores.float().contiguous()
        out = torch.empty(*scores.shape[:-1], count, dtype=torch.int64)
        sizes = c_int32(scores.numel() // n), c_int32(n), c_int32(count)
        _check(library.topk_rows(_ptr(scores), *sizes, _threads(), _ptr(out)), n)
        return out
    indices: Tensor = scores.argsort(dim=-1, stable=True)[..., n - count :].sort(-1).values
    return indices


def cosine_to_mean(keys: Tensor) -> Tensor:
    """Cosine [L, H, n] of each key [L, H, n, D] to the mean of all normalized ones."""
    keys = F.normalize(keys.float(), dim=-1)
    return (keys @ F.normalize(keys.mean(2), dim=-1)[..., None])[..., 0]


def cosine_to_running_mean(values: Tensor, total: Tensor) -> Tensor:
    """Cosine [L, H, n] of each value [L, H, n, D] to the mean of all normalized values so far.

    total: float32 [L, H, D], the sum of the normalized values so far, to which these are added.
    """
    if _supported(values):
        return _key_cosine_to_mean(values.contiguous(), None, None, None, total)
    values = F.normalize(values.float(), dim=-1)
    total += values.sum(2)
    return (values @ F.normalize(total, dim=-1)[..., None])[..., 0]


def prerope_cosine_to_mean(keys: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """`cosine_to_mean` of keys [L, H, n, D] without their positions [L, H, n], in C; None where C cannot.

    positions: int32, with the keys' strides in pairs. cos, sin: float32 [positions, D/2].
    """
    if keys.shape[-1] % 2 or not _supported(keys):
        return None
    return _key_cosine_to_mean(keys, positions, cos, sin, None)


def _supported(rows: Tensor) -> bool:
    """Tell whether C supports rows [..., D] of this dtype, size and device."""
    supported = rows.dtype in (torch.float32, torch.bfloat16) and rows.shape[-1] <= _MAX_HEAD_DIM
    return supported and _library(rows) is not None


def _key_cosine_to_mean(
    keys: Tensor, positions: Tensor | None, cos: Tensor | None, sin: Tensor | None, total: Tensor | None
) -> Tensor:
    library, (layers, heads, n, _) = _library(keys), keys.shape
    assert library is not None
    out = torch.empty(layers, heads, n)
    tensors = map(_ptr, (keys, positions, cos, sin, total, out))
    _check(library.key_cosine_to_mean(byref(_view(keys)), *tensors), n)
    return out


def value_error(weights: Tensor, values: Tensor) -> Tensor:
    """Weights [L, H, n] times the distance of each value [L, H, n, D] from the weighted mean of all."""
    library, (layers, heads, n, _) = _library(values), values.shape
    if library is None or not _supported(values):
        total = weights.sum(-1)[..., None, None]
        mean = (weights[..., None, :] @ values.float()) / total.clamp_min(torch.finfo(torch.float32).tiny)
        error: Tensor = weights * (values.float() - mean).norm(dim=-1)
        return error
    weights, out = weights.float().contiguous(), torch.empty(layers, heads, n)
    library.value_error(byref(_view(values)), _ptr(values), _ptr(weights), _ptr(out))
    return out


def keep_pairs(tensors: Sequence[Tensor], chosen: Tensor) -> None:
    """Move the chosen pairs [L, H, kept], ascending, to the front of each tensor [L, H, capacity, …]."""
    library, kept = _library(tensors[0]), chosen.shape[-1]
    if library is None:
        for tensor in tensors:
            index = chosen.view(*chosen.shape, *[1] * (tensor.dim() - 3)).expand(*chosen.shape, *tensor.shape[3:])
            tensor[:, :, :kept] = tensor.gather(2, index)
        return
    chosen, count = chosen.to(torch.int64).contiguous(), len(tensors)
    addresses = (c_void_p * count)(*(t.data_ptr() for t in tensors))
    sizes = (c_int64 * count)(*(t.stride(2) * t.itemsize for t in tensors))
    library.keep_pairs(byref(_view(tensors[0])), addresses, sizes, c_int32(count), _ptr(chosen), c_int32(kept))


def _view(tensor: Tensor) -> CacheView:
    """Sizes of a tensor [L, H, n, …] whose pairs are contiguous, in pairs."""
    layers, heads, n = tensor.shape[:3]
    pair = tensor.stride(2)
    return CacheView(
        *(layers, heads, tensor.stride(1) // pair, n, tensor.shape[3] if tensor.dim() > 3 else 1),
        *(torch.get_num_threads(), tensor.stride(0) // pair),
    )


def _library(tensor: Tensor) -> ctypes.CDLL | None:
    if tensor.device.type != "cpu":
        return None
    return native_status(torch.bfloat16 if tensor.dtype == torch.bfloat16 else torch.float32).library


def _check(failed: int, pairs: int) -> None:
    if failed:
        raise MemoryError(f"no memory to compare {pairs} pairs of each head")


def _ptr(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def _threads() -> c_int32:
    return c_int32(torch.get_num_threads())
