"""Detection of induction layers, which attend to the token that followed an earlier occurrence of the current one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minseek.cache import Slot, SlotPool, SlotShape, rotate
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.process_memory import trim_heap

if TYPE_CHECKING:
    from minseek.models.forward.decoder import Decoder

_PERIOD = 128  # random tokens, repeated once
_PROBE_LEN = 64  # last queries, whose attention is measured
_MIN_SCORE = 1 / 3  # attention of an induction head to the token that it copies
_MAX_SHARE = 1 / 6  # of the layers: with more, too little memory would remain for the others


def find_induction_layers(decoder: Decoder) -> tuple[int, ...]:
    """Layers with an induction score of at least 1/3, ascending; the highest-scoring sixth of all layers at most."""
    scores = induction_scores(decoder)
    trim_heap()  # the slot of the measurement would lie beside those of the run
    found = [layer for layer, score in enumerate(scores) if score >= _MIN_SCORE]
    highest = sorted(found, key=lambda layer: -scores[layer])[: int(_MAX_SHARE * len(scores))]
    return tuple(sorted(highest))


@torch.no_grad()
def induction_scores(decoder: Decoder) -> list[float]:
    """Induction score of each layer: the share of attention that its strongest induction head gives to copying.

    A sequence of random tokens is read twice. In the second reading, only the first one predicts the next token: a head
    that attends to the token after the earlier occurrence copies it. Such heads are the induction heads of
    arXiv 2209.11895; they need more of the cache than others (RazorAttention, arXiv 2407.15891; DuoAttention,
    arXiv 2410.10819). The measurement and its summary by layer are ours.

    Returns
    -------
    list of float
        From 0 to 1, one for each layer: attention weight, mean over queries, of the layer's highest head.
    """
    weights, config = decoder.weights, decoder.weights.config
    vocab_size = min(len(weights.embedding), weights.vocab_size)
    period = min(_PERIOD, vocab_size, config.max_positions // 2)
    probe_len = min(_PROBE_LEN, period)
    once = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(0))[:period].tolist()
    shape = SlotShape(weights.shape, 2 * period - probe_len, probe_len, num_heads=config.num_heads)
    (slot,) = SlotPool(shape, weights.rotary, 1, device=weights.device).slots
    for start in range(0, 2 * period, probe_len):
        tokens = (once + once)[start : start + probe_len]
        decoder.forward_batch([SequenceChunk(tokens, slot)])
    windows = (layer.window for layer in weights.layers)
    return [_score(slot, i, period, probe_len, config.attention_scale, window) for i, window in enumerate(windows)]


def _score(slot: Slot, layer: int, period: int, probe_len: int, scale: float, window: int | None) -> float:
    assert slot.observer is not None
    keys, queries = slot.keys[layer].float(), slot.observer.queries[layer]
    n = keys.shape[1]
    positions = torch.arange(n - probe_len, n, device=keys.device)
    queries = queries[:, (torch.arange(probe_len, device=keys.device) + slot.observer.query_index) % probe_len]
    cos, sin = slot.rotary.at(n - probe_len, probe_len)
    rotated = rotate(queries, cos, sin).view(len(keys), -1, keys.shape[2])
    scores = (rotated @ keys.transpose(1, 2) * scale).view(len(queries), probe_len, n)
    distance = positions[:, None] - torch.arange(n, device=keys.device)
    masked = (distance < 0) | (distance >= (window or n))
    weights: Tensor = scores.masked_fill(masked, -torch.inf).softmax(-1)
    copied = weights[:, torch.arange(probe_len, device=keys.device), positions - period + 1]
    return float(copied.mean(1).max())
