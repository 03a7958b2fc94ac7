"""Causal attention in PyTorch: of one sequence's new tokens, with or without weights, and of one token each of many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, keys: Tensor, values: Tensor, *, scale: float, window: int | None) -> Tensor:
    """Causal attention of the last T positions over all.

    Parameters
    ----------
    q : Tensor
        [H * G, T, D], with positions.
    keys, values : Tensor
        [H, n, D]; the queries are the last T of the n positions.

    Returns
    -------
    Tensor
        [H * G, T, D].
    """
    count, total = q.shape[1], keys.shape[1]
    if window is not None and total <= window:
        window = None
    if count == 1:
        if window is not None:
            keys, values = keys[:, -window:], values[:, -window:]
        # One query: the query heads of a group become the rows of one GEMM, so that no key is repeated.
        grouped = q.view(len(keys), -1, q.shape[2])
        return F.scaled_dot_product_attention(grouped[None], keys[None], values[None], scale=scale)[0].reshape(q.shape)
    mask = None
    if total > count or window is not None:
        positions = torch.arange(total, device=q.device)
        distance = positions[total - count :, None] - positions
        mask = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return F.scaled_dot_product_attention(
        q[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )[0]


def attention_with_weights(
    q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, *, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Causal attention of the last T pairs over all pairs, with its weights.

    Parameters
    ----------
    q : Tensor
        [H * G, T, D], with positions.
    keys, values : Tensor
        [H, n, D]; those of the queries are the last T of the n.
    positions : Tensor
        [H, n], int32: positions of the keys.

    Returns
    -------
    out, weights : Tensor
        [H * G, T, D], and float32 [H, G, T, n].
    """
    heads, count, total = len(keys), q.shape[1], keys.shape[1]
    grouped = q.view(heads, -1, count, q.shape[2])
    scores = (grouped @ keys[:, None].transpose(2, 3)).float() * scale
    index = torch.arange(total, device=q.device)
    masked = index > index[total - count :, None]
    if window is not None:
        masked = masked | (positions[:, total - count :, None] - positions[:, None] >= window)[:, None]
    weights = scores.masked_fill_(masked, -torch.inf).softmax(-1)
    return (weights.to(q.dtype) @ values[:, None]).view(q.shape), weights


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one query of each of B sequences over its pairs, with its weights.

    Parameters
    ----------
    q : Tensor
        [B, H * G, D], with positions.
    keys, values : Tensor
        [B, H, n, D].
    mask : Tensor
        [B, 1 or H, n], bool, True for pairs that are not attended to.

    Returns
    -------
    out, weights : Tensor
        [B, H * G, D], and float32 [B, H, G, n].
    """
    grouped = q.view(len(q), keys.shape[1], -1, q.shape[2])
    scores = (grouped @ keys.transpose(2, 3)).float() * scale
    weights = scores.masked_fill_(mask[:, :, None], -torch.inf).softmax(-1)
    return (weights.to(q.dtype) @ values).view(q.shape), weights
