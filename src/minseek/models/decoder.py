"""The forward pass of one sequence: from new tokens and a cache to the next token's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minseek.cache import Pairs, Singles, Slot, SlotPool, rotate
from minseek.errors import InputError
from minseek.models.attention import attend, attend_counting, attend_singles
from minseek.models.feed import Feed
from minseek.models.native import NativeForward
from minseek.models.parts import DecoderParts, LayerParts
from minseek.native import native_status

_CHUNK = 512  # tokens read at once: enough for the products to be fast, and little memory for activations
_BYTES_PER_THREAD = 4 * 2**20  # of weights: with less to read, threads cost more in meeting than they save
_FEW = 2  # up to so many tokens of one sequence, single steps in C beat a pass


class Decoder:
    """Feeds tokens through a model's weights, with keys and values in a `ThoughtCache` or in `Slot`s.

    transformers rotates keys before its cache sees them and takes several small operations where one does; owning
    these lines is what makes keys movable and a step as fast as the memory. Logits are tested to equal those of the
    unmodified model.
    """

    def __init__(self, parts: DecoderParts) -> None:
        self.parts = parts
        self._native: NativeForward | None = None
        self._mean_head: tuple[Tensor, float] | None = None
        self.step_kind = "PyTorch"
        device = parts.embedding.device
        if device.type == "cpu":
            status = native_status(parts.shape.dtype)
            if status.library is not None:
                threads = min(torch.get_num_threads(), 1 + parts.weight_bytes // _BYTES_PER_THREAD)
                self._native = NativeForward(status.library, parts, threads)
                self.step_kind = "C"

    def feed(self, tokens: Sequence[int], cache: Pairs) -> Tensor:
        """Append tokens to the cache; the logits that follow the last one, float32, [vocabulary].

        Raises
        ------
        CacheFullError
            If the cache may not grow so far.
        """
        self._check(tokens)
        cache.reserve(len(tokens))
        if self._native is not None and len(tokens) <= _FEW and not cache.received:
            for token in tokens[:-1]:
                self._native.step(token, cache, logits=False)
            logits = self._native.step(tokens[-1], cache, logits=True)
            assert logits is not None
            return logits
        chunks = [tokens[start : start + _CHUNK] for start in range(0, len(tokens), _CHUNK)]
        for chunk in chunks[:-1]:
            self.feed_many([Feed(chunk, cache)])
        return self.feed_many([Feed(chunks[-1], cache, wanted=1)])[0][0]

    @torch.no_grad()
    def feed_many(self, feeds: Sequence[Feed]) -> tuple[Tensor, Tensor]:
        """One pass over new tokens of several sequences, prompts and single steps side by side.

        Returns
        -------
        logits, hidden : Tensor
            Of the tokens that are wanted, in order: float32, [n, vocabulary] and [n, hidden] (after the last norm).
        """
        asked: list[int] = []
        known: list[int] = []
        columns = 0
        for feed in feeds:
            self._check(feed.tokens)
            end = columns + len(feed.tokens)
            asked += range(end - feed.wanted, end)
            if feed.cache.ahead is not None:
                known += range(columns, end - feed.wanted)
            columns = end
        run = self._forward if self._native is None else self._native.forward
        logits, hidden = run(feeds, asked, known)
        if any(feed.cache.ahead is not None for feed in feeds):
            self._note_surprise(feeds, hidden[torch.tensor((*asked, *known)).argsort()])
        return logits, hidden[: len(asked)]

    def _note_surprise(self, feeds: Sequence[Feed], hidden: Tensor) -> None:
        """Tell caches that ask how unexpected each new token was; hidden: of their tokens and what others wanted."""
        if self._mean_head is None:
            bias = self.parts.head_bias
            self._mean_head = self.parts.head.mean(0, dtype=torch.float32), 0.0 if bias is None else float(bias.mean())
        row, (mean, middle) = 0, self._mean_head
        for feed in feeds:
            if feed.cache.ahead is None:
                row += feed.wanted
                continue
            tokens = torch.tensor(feed.tokens, device=hidden.device)
            states = hidden[row : row + len(tokens)]
            row += len(tokens)
            before = torch.cat((feed.cache.ahead[None], states[:-1]))
            surprise = (before * (mean - self.parts.head[tokens].float())).sum(-1)
            if self.parts.head_bias is not None:
                surprise += middle - self.parts.head_bias[tokens].float()
            feed.cache.remember_surprise(surprise, states[-1])

    def pass_bytes(self, tokens: int, longest: int, wanted: int) -> int:
        """Bytes of activations and logits of a pass; `longest` is how many pairs the longest sequence has then."""
        parts, blueprint = self.parts, self.parts.blueprint
        logits = wanted * parts.vocabulary * 4 + (tokens + 4 * 128) * parts.hidden * 4  # and states, to note surprise
        if self._native is not None:
            return self._native.memory(tokens, longest) + logits
        width = 4 * parts.hidden + 3 * parts.inner + 4 * blueprint.query_heads * blueprint.head_dim
        weights = 2 * blueprint.query_heads * min(tokens, 128) * longest * 4  # of one sequence's attention
        return tokens * width * parts.shape.dtype.itemsize + weights + logits

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ValueError("feed() needs at least one token")
        rows = len(self.parts.embedding)
        if not 0 <= min(tokens) <= max(tokens) < rows:
            raise InputError(
                f"the token {max(tokens)} has no place in an embedding of {rows}: the tokenizer does not fit"
            )

    def _forward(self, feeds: Sequence[Feed], asked: Sequence[int], known: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The pass in PyTorch: products over all tokens at once, attention over slots with one token at once, too."""
        for feed in feeds:
            feed.cache.reserve(len(feed.tokens))
        device = self.parts.embedding.device
        hidden = F.embedding(torch.tensor([t for f in feeds for t in f.tokens], device=device), self.parts.embedding)
        sets = _in_sets(feeds, device)
        for index, layer in enumerate(self.parts.layers):
            hidden = hidden + self._attention(index, layer, self._norm(hidden, layer.norm1), sets)
            normed = self._norm(hidden, layer.norm2)
            gated = F.silu(F.linear(normed, layer.gate, layer.gate_bias)) * F.linear(normed, layer.up, layer.up_bias)
            hidden = hidden + F.linear(gated, layer.down, layer.down_bias)
        for feed in feeds:
            feed.cache.advance(len(feed.tokens))
        last = self._norm(hidden[torch.tensor((*asked, *known), dtype=torch.long, device=device)], self.parts.norm)
        return F.linear(last[: len(asked)], self.parts.head, self.parts.head_bias).float(), last.float()

    def _attention(self, index: int, layer: LayerParts, x: Tensor, sets: _Sets) -> Tensor:
        dim, scale = self.parts.shape.head_dim, self.parts.blueprint.scale
        q = F.linear(x, layer.q, layer.q_bias).view(len(x), -1, dim)
        k = F.linear(x, layer.k, layer.k_bias).view(len(x), -1, dim)
        v = F.linear(x, layer.v, layer.v_bias).view(len(x), -1, dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = self._norm(q, layer.q_norm), self._norm(k, layer.k_norm)
        out = torch.empty_like(q)
        for rows, feed in sets.apart:
            mine = (t[rows].transpose(0, 1) for t in (q, k, v))
            out[rows] = _attend_feed(index, feed, *mine, scale=scale, window=layer.window).transpose(0, 1)
        for singles, rows_of in sets.singles:
            singles.remember_queries(index, q[rows_of])
            keys, values = singles.append(index, k[rows_of], v[rows_of])
            unseen = singles.unseen(index, layer.window)
            out[rows_of], weights = attend_singles(singles.rotated(q[rows_of]), keys, values, unseen, scale=scale)
            singles.observe(index, weights)
        return F.linear(out.view(len(x), -1), layer.o, layer.o_bias)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.parts.blueprint.eps)


@dataclass(frozen=True)
class _Sets:
    """The feeds of a pass, with the rows that their tokens take: slots with one token, alike in layout, and others."""

    singles: list[tuple[Singles, Tensor]]
    apart: list[tuple[slice, Feed]]


def _in_sets(feeds: Sequence[Feed], device: torch.device) -> _Sets:
    at, apart = 0, []
    alike: dict[tuple[SlotPool, bool], list[tuple[int, Slot]]] = {}
    for feed in feeds:
        cache, here = feed.cache, slice(at, at + len(feed.tokens))
        if isinstance(cache, Slot) and len(feed.tokens) == 1:
            alike.setdefault((cache.pool, cache.divided), []).append((at, cache))
        else:
            apart.append((here, feed))
        at = here.stop
    singles = [
        (Singles([slot for _, slot in found]), torch.tensor([row for row, _ in found], device=device))
        for found in alike.values()
    ]
    return _Sets(singles, apart)


def _attend_feed(
    index: int, feed: Feed, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
) -> Tensor:
    """Attention of one sequence's new tokens, in one layer: [H * G, T, D] of q and k without positions."""
    cache, count = feed.cache, len(feed.tokens)
    cache.remember_queries(index, q)
    queries = rotate(q, *cache.rotary.at(cache.position, count))
    keys, values = cache.append(index, k, v)
    if not cache.received:
        return attend(queries, keys, values, scale=scale, window=window)
    at = cache.positions[index][:, : keys.shape[1]]
    given, weights = attend_counting(queries, keys, values, at, scale=scale, window=window)
    cache.observe(index, weights)
    return given
