"""Which layers copy: look up where the newest token came before, and attend to what followed it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minseek.cache import Slot, SlotPool, SlotShape, rotate
from minseek.models.forward.chunk import SequenceChunk

if TYPE_CHECKING:
    from minseek.models.forward.decoder import Decoder

_TOKENS = 128  # random ones, that come twice
_ASKED = 64  # of the last queries, whose attention is looked at
_COPIES = 1 / 3  # of a head's attention rests on what it copies from
_AT_MOST = 1 / 6  # of the layers: with more, too little would be left to the others


def induction_layers(decoder: Decoder) -> tuple[int, ...]:
    """The layers, ascending, with a head that gives at least a third of its attention to copying; a sixth at most."""
    shares = induction_scores(decoder)
    copying = [layer for layer, share in enumerate(shares) if share >= _COPIES]
    most = sorted(copying, key=lambda layer: -shares[layer])[: int(_AT_MOST * len(shares))]
    return tuple(sorted(most))


@torch.no_grad()
def induction_scores(decoder: Decoder) -> list[float]:
    """For each layer, how much of its attention the head that copies most rests on what it copies from.

    Random tokens are read twice. While they come for the second time, nothing tells what follows but what followed the
    first time: a head whose attention rests there copies. (Such heads are the induction heads of arXiv 2209.11895, and
    what they need of the cache is more than what others do: RazorAttention, arXiv 2407.15891, DuoAttention,
    arXiv 2410.10819. How we measure and that we sum it up by layers is ours.)

    Returns
    -------
    list of float
        From 0 to 1, one for each layer; the mean over queries of the attention's weight, of the layer's highest head.
    """
    weights, config = decoder.weights, decoder.weights.config
    vocab_size = min(len(weights.embedding), weights.vocab_size)
    period = min(_TOKENS, vocab_size, config.max_positions // 2)
    asked = min(_ASKED, period)
    once = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(0))[:period].tolist()
    shape = SlotShape(weights.shape, 2 * period - asked, asked, num_heads=config.num_heads)
    (slot,) = SlotPool(shape, weights.rotary, 1, device=weights.embedding.device).slots
    for start in range(0, 2 * period, asked):
        tokens = (once + once)[start : start + asked]
        decoder.forward_batch([SequenceChunk(tokens, slot)])
    windows = (layer.window for layer in weights.layers)
    return [_share(slot, i, period, asked, config.attention_scale, window) for i, window in enumerate(windows)]


def _share(slot: Slot, layer: int, period: int, asked: int, scale: float, window: int | None) -> float:
    assert slot.observer is not None
    keys, queries = slot.keys[layer].float(), slot.observer.queries[layer]
    n = keys.shape[1]
    at = torch.arange(n - asked, n, device=keys.device)
    queries = queries[:, (torch.arange(asked, device=keys.device) + slot.observer.query_index) % asked]
    cos, sin = slot.rotary.at(n - asked, asked)
    turned = rotate(queries, cos, sin).view(len(keys), -1, keys.shape[2])
    scores = (turned @ keys.transpose(1, 2) * scale).view(len(queries), asked, n)
    back = at[:, None] - torch.arange(n, device=keys.device)
    unseen = (back < 0) | (back >= (window or n))
    weights: Tensor = scores.masked_fill(unseen, -torch.inf).softmax(-1)
    followed = weights[:, torch.arange(asked, device=keys.device), at - period + 1]
    return float(followed.mean(1).max())
