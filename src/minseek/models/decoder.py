"""The forward pass of one sequence: from new tokens and a cache to the next token's logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache import ThoughtCache, rotate
from minseek.errors import InputError
from minseek.models.native import NativeStep, native_status
from minseek.models.parts import DecoderParts, LayerParts

_CHUNK = 2048  # tokens of a prompt read at once: bounds the memory of activations
_BYTES_PER_THREAD = 4 * 2**20  # of weights: with less to read, threads cost more in meeting than they save
_FEW = 4  # up to so many tokens, single steps in C beat one pass in PyTorch


class Decoder:
    """Feeds tokens through a model's weights, with keys and values in a `ThoughtCache`.

    transformers rotates keys before its cache sees them and takes several small operations where one does; owning
    these lines is what makes keys movable and a step as fast as the memory. Logits are tested to equal those of the
    unmodified model.
    """

    def __init__(self, parts: DecoderParts) -> None:
        self.parts = parts
        self._step: NativeStep | None = None
        self.step_kind = "PyTorch"
        device = parts.embedding.device
        if device.type == "cpu":
            status = native_status(parts.shape.dtype)
            if status.library is not None:
                threads = min(torch.get_num_threads(), 1 + parts.weight_bytes // _BYTES_PER_THREAD)
                self._step = NativeStep(status.library, parts, threads)
                self.step_kind = "C"

    @torch.no_grad()
    def feed(self, tokens: Sequence[int], cache: ThoughtCache) -> Tensor:
        """Append tokens to the cache; the logits that follow the last one, float32, [vocabulary].

        Raises
        ------
        CacheFullError
            If the cache may not grow so far.
        """
        if not tokens:
            raise ValueError("feed() needs at least one token")
        rows = len(self.parts.embedding)
        if not 0 <= min(tokens) <= max(tokens) < rows:
            raise InputError(
                f"the token {max(tokens)} has no place in an embedding of {rows}: the tokenizer does not fit"
            )
        cache.reserve(len(tokens))
        if self._step is not None and len(tokens) <= _FEW:
            for token in tokens[:-1]:
                self._step.feed(token, cache, logits=False)
            logits = self._step.feed(tokens[-1], cache, logits=True)
            assert logits is not None
            return logits
        ids = torch.tensor(tokens, device=self.parts.embedding.device)
        for chunk in torch.split(ids, _CHUNK):
            hidden = self._forward(chunk, cache)
        return F.linear(self._norm(hidden[-1], self.parts.norm), self.parts.head, self.parts.head_bias).float()

    def _forward(self, ids: Tensor, cache: ThoughtCache) -> Tensor:
        """Hidden states [T, hidden] of T new tokens."""
        hidden = F.embedding(ids, self.parts.embedding)
        for index, layer in enumerate(self.parts.layers):
            hidden = hidden + self._attention(index, layer, self._norm(hidden, layer.norm1), cache)
            normed = self._norm(hidden, layer.norm2)
            gated = F.silu(F.linear(normed, layer.gate, layer.gate_bias)) * F.linear(normed, layer.up, layer.up_bias)
            hidden = hidden + F.linear(gated, layer.down, layer.down_bias)
        cache.advance(len(ids))
        return hidden

    def _attention(self, index: int, layer: LayerParts, x: Tensor, cache: ThoughtCache) -> Tensor:
        count, dim = len(x), self.parts.shape.head_dim
        q = F.linear(x, layer.q, layer.q_bias).view(count, -1, dim)
        k = F.linear(x, layer.k, layer.k_bias).view(count, -1, dim)
        v = F.linear(x, layer.v, layer.v_bias).view(count, -1, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        q = rotate(q.transpose(0, 1), *cache.rotary.at(cache.length, count))
        keys, values = cache.append(index, k.transpose(0, 1), v.transpose(0, 1))
        out = attend(q, keys, values, scale=self.parts.blueprint.scale, window=layer.window)
        return F.linear(out.transpose(0, 1).reshape(count, -1), layer.o, layer.o_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.parts.blueprint.eps)


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
