"""Causal attention in PyTorch: of a sequence's new tokens, with or without counting, and of one token each of many."""

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
        # One query: the query heads of a group become the rows of one product, and no key is repeated.
        grouped = q.view(len(keys), -1, q.shape[2])
        return F.scaled_dot_product_attention(grouped[None], keys[None], values[None], scale=scale)[0].reshape(q.shape)
    mask = None
    if total > count or window is not None:
        at = torch.arange(total, device=q.device)
        back = at[total - count :, None] - at
        mask = back >= 0 if window is None else (back >= 0) & (back < window)
    return F.scaled_dot_product_attention(
        q[None], keys[None], values[None], attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )[0]


def attention_with_weights(
    q: Tensor, keys: Tensor, values: Tensor, at: Tensor, *, scale: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Causal attention of the last T pairs over all, and its weights.

    Parameters
    ----------
    q : Tensor
        [H * G, T, D], with positions.
    keys, values : Tensor
        [H, n, D]; the queries' own are the last T of the n.
    at : Tensor
        [H, n], int32: the keys' positions.

    Returns
    -------
    out, weights : Tensor
        [H * G, T, D], and float32 [H, G, T, n].
    """
    heads, count, total = len(keys), q.shape[1], keys.shape[1]
    grouped = q.view(heads, -1, count, q.shape[2])
    scores = (grouped @ keys[:, None].transpose(2, 3)).float() * scale
    index = torch.arange(total, device=q.device)
    hidden = index > index[total - count :, None]
    if window is not None:
        hidden = hidden | (at[:, total - count :, None] - at[:, None] >= window)[:, None]
    weights = scores.masked_fill_(hidden, -torch.inf).softmax(-1)
    return (weights.to(q.dtype) @ values[:, None]).view(q.shape), weights


def decode_attention(q: Tensor, keys: Tensor, values: Tensor, unseen: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of one query each of B sequences over their pairs, and its weights.

    Parameters
    ----------
    q : Tensor
        [B, H * G, D], with positions.
    keys, values : Tensor
        [B, H, n, D].
    unseen : Tensor
        [B, 1 or H, n], bool: pairs that are not attended to.

    Returns
    -------
    out, weights : Tensor
        [B, H * G, D], and float32 [B, H, G, n].
    """
    grouped = q.view(len(q), keys.shape[1], -1, q.shape[2])
    scores = (grouped @ keys.transpose(2, 3)).float() * scale
    weights = scores.masked_fill_(unseen[:, :, None], -torch.inf).softmax(-1)
    return (weights.to(q.dtype) @ values).view(q.shape), weights
