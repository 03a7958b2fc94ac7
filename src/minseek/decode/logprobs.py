"""How likely a token was, in the model's own view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.errors import InputError, check_type

MOST = 20
"""Likely tokens beside the chosen one that may be asked for, as in OpenAI's interface."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural logarithms of probabilities at one token.

    They are the model's: of its logits in float32 over the whole vocabulary, before temperature, filters and forbidden
    tokens, as OpenAI's interface has them. The chosen token need not be among the most likely ones.

    Attributes
    ----------
    token : int
        The chosen one.
    logprob : float
    top : list of (int, float)
        The most likely tokens and theirs, the likeliest first, and of equal ones the one with the smaller id.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


def check_logprobs(count: int | None) -> int | None:
    """The number of likely tokens to tell beside each; None tells nothing at all.

    Raises
    ------
    TypeError, InputError
        If it is no integer, or not between 0 and 20.
    """
    if count is None:
        return None
    check_type("logprobs must be an integer or None", count, int)
    if not 0 <= count <= MOST:
        raise InputError(f"logprobs must be between 0 and {MOST}, not {count}")
    return count


def logprob(logits: Tensor, token: int) -> float:
    """That of one token, natural, from logits [vocabulary]."""
    logits = logits.float()
    return float(logits[token] - logits.logsumexp(0))


def token_logprob(logits: Tensor, token: int, count: int) -> TokenLogprob:
    """The figures of a token chosen from logits [vocabulary], and of the `count` most likely ones."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logs.topk(min(count, len(logs)))
    top = sorted(zip(ids.tolist(), values.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return TokenLogprob(token, float(logs[token]), top)
