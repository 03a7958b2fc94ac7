"""Log-probabilities of tokens under the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.errors import InputError, check_type

MAX_LOGPROBS = 20
"""Maximum number of most likely tokens reported for each token, as in OpenAI's API."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probabilities at one token.

    Computed from the model's logits in float32 over the whole vocabulary, before biases, penalties, temperature,
    filters and banned tokens, as in OpenAI's API. The chosen token need not be among the most likely ones.

    Attributes
    ----------
    token : int
        The chosen token.
    logprob : float
    top : list of (int, float)
        The most likely tokens with their log-probabilities, highest first, ties by ascending id.
    text : str or None
        Text that the token completes, perhaps none; None if it was not decoded with the tokens before it.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]
    text: str | None = None


def check_logprobs(count: int | None) -> int | None:
    """Check the number of most likely tokens to report for each token; None reports no log-probabilities.

    Raises
    ------
    TypeError, InputError
        If it is not an integer, or not between 0 and 20.
    """
    if count is None:
        return None
    check_type("logprobs must be an integer or None", count, int)
    if not 0 <= count <= MAX_LOGPROBS:
        raise InputError(f"logprobs must be between 0 and {MAX_LOGPROBS}, not {count}")
    return count


def logprob(logits: Tensor, token: int) -> float:
    """Natural log-probability of one token, from logits [vocab]."""
    logits = logits.float()
    return float(logits[token] - logits.logsumexp(0))


def token_logprob(logits: Tensor, token: int, count: int, text: str | None = None) -> TokenLogprob:
    """Log-probabilities of a token chosen from logits [vocab], with its text, and of the `count` most likely tokens."""
    logs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logs.topk(min(count, len(logs)))
    top = sorted(zip(ids.tolist(), values.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return TokenLogprob(token, float(logs[token]), top, text)
