"""Sampling of the next token from logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.errors import InputError, check_type

_MIN_TEMPERATURE = 1e-30  # already greedy; dividing by less would overflow float32


@dataclass(frozen=True)
class Sampling:
    """Rules for choosing the next token.

    The defaults, the paper's, are those of thoughts, chats, batches and evaluations.

    Filters apply in the order of transformers' generation: temperature, top-k, top-p, min-p.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 is greedy and ignores the rest.
    top_p : float
        Keep the most probable tokens whose probabilities first reach this sum, in (0, 1].
    top_k : int or None
        Keep that many tokens.
    min_p : float
        Keep tokens at least this share as probable as the most probable one, in [0, 1].
    seed : int or None
        The same seed gives the same run on the same machine; None draws a new one each time.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int | None = None
    min_p: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, kinds in (
            ("temperature", (int, float)),
            ("top_p", (int, float)),
            ("min_p", (int, float)),
            ("top_k", int),
            ("seed", int),
        ):
            value = getattr(self, name)
            if value is None and name in ("top_k", "seed"):
                continue
            check_type(f"{name} must be {'an integer' if kinds is int else 'a number'}", value, kinds)
        for wrong, rule in (
            (not (self.temperature >= 0 and math.isfinite(self.temperature)), "temperature must be 0 (greedy) or more"),
            (not 0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (self.top_k is not None and self.top_k < 1, "top_k must be 1 or more"),
            (not 0 <= self.min_p <= 1, "min_p must be between 0 and 1"),
            (self.seed is not None and not 0 <= self.seed < 2**63, "seed must be between 0 and 2^63 - 1"),
        ):
            if wrong:
                raise InputError(f"{rule}, not {getattr(self, rule.split()[0])}")


class Sampler:
    """Draws tokens by `sampling` from its own random generator."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def fork(self) -> Sampler:
        """Copy with the same random state: it draws the same tokens as this sampler would."""
        forked = Sampler(self.sampling)
        forked._generator.set_state(self._generator.get_state())
        return forked

    def pick(self, logits: Tensor, banned: Sequence[int] = ()) -> int:
        """Choose a token from logits [vocab]; `banned` ids are never chosen."""
        if banned:
            logits = logits.clone()
            logits[list(banned)] = -math.inf
        logits = logits.float().cpu()
        highest, most_likely = logits.max(0)
        if not math.isfinite(highest):
            raise InputError("the model's logits are not finite numbers: try bfloat16 or float32 if it runs in float16")
        if self.sampling.temperature == 0:
            return int(most_likely)
        weights = self._weights(logits, highest)
        total = float(weights.sum())
        if self.sampling.top_p < 1 and self.sampling.top_p * total <= 1:  # usual when the model is confident
            return int(most_likely)
        passed, ids = self._candidates(weights, total)
        return int(ids[self._draw(passed)])

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalized probabilities and ids, [n] each, of the tokens that pass the filters."""
        logits = logits.float().cpu()
        weights = self._weights(logits, logits.max())
        return self._candidates(weights, float(weights.sum()))

    def _weights(self, logits: Tensor, highest: Tensor) -> Tensor:
        """Probabilities relative to the highest one."""
        return (logits - highest).div_(max(self.sampling.temperature, _MIN_TEMPERATURE)).exp_()

    def _draw(self, weights: Tensor) -> int:
        """Index that `torch.multinomial` would draw, by the same exponential race without its checks."""
        times = torch.empty_like(weights).exponential_(generator=self._generator)
        return int((weights / times).argmax())

    def _candidates(self, weights: Tensor, total: float) -> tuple[Tensor, Tensor]:
        s, size = self.sampling, weights.shape[0]
        if s.top_p == 1 and s.min_p == 0 and s.top_k is None:
            return weights, torch.arange(size)
        if s.top_k is not None:
            top, ids = weights.topk(min(s.top_k, size))
            passed = self._passing(top, total=float(top.sum()))
            return top[:passed], ids[:passed]
        # Sorting the whole vocabulary takes as long as a small model's step; a few hundred candidates usually suffice.
        count = 256
        while True:
            top, ids = weights.topk(min(count, size))
            passed = self._passing(top, total)
            if passed < top.shape[0] or top.shape[0] == size:
                return top[:passed], ids[:passed]
            count *= 8

    def _passing(self, top: Tensor, total: float) -> int:
        """Number of the sorted probabilities that pass top-p and min-p; at least 1."""
        s, passed = self.sampling, top.shape[0]
        if s.min_p > 0:
            passed = int((top >= s.min_p * top[0]).sum())
        if s.top_p < 1 and passed > 1:
            if float(top[0]) >= s.top_p * total:  # usual when the model is confident
                return 1
            before = top.cumsum(0) - top
            passed = min(passed, int((before < s.top_p * total).sum()))
        return max(1, passed)
