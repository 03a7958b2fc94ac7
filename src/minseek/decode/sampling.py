"""Sampling of the next token from logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minseek.decode.penalties import Penalties
from minseek.errors import InputError, check_type

MAX_LOGIT_BIAS = 100
"""Largest bias of a token, as in OpenAI's API; it bans or forces the token."""
_NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_MIN_TEMPERATURE = 1e-30  # already greedy; dividing by less would overflow float32


@dataclass(frozen=True)
class Sampling:
    """Rules for choosing the next token.

    The defaults, the paper's, are those of thoughts, chats, batches and evaluations.

    The bias comes first, then penalties (repetition, frequency, presence), as in vLLM; then filters in the order of
    transformers' generation: temperature, top-k, top-p, min-p.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 is greedy and ignores the filters.
    top_p : float
        Keep the most probable tokens whose probabilities first reach this sum, in (0, 1].
    top_k : int or None
        Keep that many tokens.
    min_p : float
        Keep tokens at least this share as probable as the most probable one, in [0, 1].
    seed : int or None
        The same seed gives the same run on the same machine; None draws a new one each time.
    repetition_penalty : float
        Divides the positive logits, and multiplies the others, of every token that the prompt or the text after it has
        (CTRL, arXiv:1909.05858; as in transformers), between 0.01 and 100; 1 changes nothing.
    frequency_penalty, presence_penalty : float
        Subtracted from the logit of every token that the text after the prompt has, once for each occurrence and once
        in all, between -2 and 2 (as in OpenAI's API); 0 changes nothing. Thoughts count while they are in the cache:
        a dropped thought is no longer penalized (our choice).
    logit_bias : mapping of int to float, optional
        Added to the logits of these tokens, between -100 and 100.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int | None = None
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            check_type(f"{name} must be a number", getattr(self, name), (int, float))
        for name in ("top_k", "seed"):
            if getattr(self, name) is not None:
                check_type(f"{name} must be an integer", getattr(self, name), int)
        for wrong, rule in (
            (not (self.temperature >= 0 and math.isfinite(self.temperature)), "temperature must be 0 (greedy) or more"),
            (not 0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (self.top_k is not None and self.top_k < 1, "top_k must be 1 or more"),
            (not 0 <= self.min_p <= 1, "min_p must be between 0 and 1"),
            (self.seed is not None and not 0 <= self.seed < 2**63, "seed must be between 0 and 2^63 - 1"),
            (
                not 0.01 <= self.repetition_penalty <= 100,  # beyond, logits become so large that no filter works
                "repetition_penalty must be between 0.01 and 100 (1 is none)",
            ),
            (not -2 <= self.frequency_penalty <= 2, "frequency_penalty must be between -2 and 2 (0 is none)"),
            (not -2 <= self.presence_penalty <= 2, "presence_penalty must be between -2 and 2 (0 is none)"),
        ):
            if wrong:
                raise InputError(f"{rule}, not {getattr(self, rule.split()[0])}")
        if self.logit_bias is not None:
            check_type("logit_bias must be a mapping of token ids to numbers", self.logit_bias, Mapping)
            for token, bias in self.logit_bias.items():
                check_type("logit_bias must have token ids, integers, as keys", token, int)
                check_type(f"logit_bias of token {token} must be a number", bias, (int, float))
                if not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
                    limits = f"-{MAX_LOGIT_BIAS} and {MAX_LOGIT_BIAS}"
                    raise InputError(f"logit_bias of token {token} must be between {limits}, not {bias}")
            object.__setattr__(self, "logit_bias", dict(self.logit_bias))

    def penalties(self, prompt: Sequence[int]) -> Penalties | None:
        """Penalties and biases of a sequence that begins with `prompt`; None if there are none, which costs nothing."""
        penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        if penalties == (1, 0, 0) and not self.logit_bias:
            return None
        repetition, frequency, presence = penalties
        return Penalties(prompt, repetition=repetition, frequency=frequency, presence=presence, bias=self.logit_bias)


class Sampler:
    """Draws the tokens of one sequence by `sampling` from its own random generator.

    Parameters
    ----------
    sampling : Sampling
    prompt : sequence of int
        Tokens that the sequence begins with. Penalties count them and the tokens of `extend`.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        self.sampling = sampling
        self._penalties = sampling.penalties(prompt)
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def fork(self) -> Sampler:
        """Copy with the same random state: it draws the same tokens as this sampler would."""
        forked = Sampler(self.sampling)
        forked._generator.set_state(self._generator.get_state())
        forked._penalties = None if self._penalties is None else self._penalties.copy()
        return forked

    def extend(self, tokens: Sequence[int]) -> None:
        """Count tokens that were appended to the sequence, drawn or not, for the penalties."""
        if self._penalties is not None:
            self._penalties.extend(tokens)

    def delete(self, start: int, stop: int) -> None:
        """Forget the tokens from `start` to before `stop`, counted from the end of the prompt, for the penalties."""
        if self._penalties is not None:
            self._penalties.delete(start, stop)

    def pick(self, logits: Tensor, banned: Sequence[int] = ()) -> int:
        """Choose a token from logits [vocab]; `banned` ids are never chosen."""
        logits = self._penalized(logits)
        if banned:
            logits = logits.clone()
            logits[list(banned)] = -math.inf
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
        logits = self._penalized(logits)
        weights = self._weights(logits, logits.max())
        return self._candidates(weights, float(weights.sum()))

    def _penalized(self, logits: Tensor) -> Tensor:
        logits = logits.float().cpu()
        return logits if self._penalties is None else self._penalties.apply(logits)

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
