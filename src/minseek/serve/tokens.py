"""Log-probabilities as the two kinds of responses tell them."""

from __future__ import annotations

from collections.abc import Sequence

from minseek.decode import TokenLogprob, decode_after
from minseek.models import Model
from minseek.serve.replies import ChatLogprob, CompletionLogprobs, TopLogprob

_LEAST = -9999.0  # as OpenAI writes what is very unlikely: JSON has no infinity
_INCOMPLETE = "\ufffd"  # what a tokenizer writes for bytes that do not form a character by themselves


def chat_logprobs(model: Model, logprobs: Sequence[TokenLogprob]) -> list[ChatLogprob]:
    """For chats: each token with the most probable ones in its place."""
    return [
        ChatLogprob(
            **_token(model, one.token, one.logprob).model_dump(),
            top_logprobs=[_token(model, token, logprob) for token, logprob in one.top],
        )
        for one in logprobs
    ]


def _token(model: Model, token: int, logprob: float) -> TopLogprob:
    text = _text(model, token)
    return TopLogprob(
        token=text, logprob=max(_LEAST, logprob), bytes=None if _INCOMPLETE in text else list(text.encode())
    )


def completion_logprobs(model: Model, logprobs: Sequence[TokenLogprob], offset: int = 0) -> CompletionLogprobs:
    """For completions: one list for each figure; `offset` is the length of the text before the first token."""
    tokens = [_text(model, one.token) for one in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[max(_LEAST, one.logprob) for one in logprobs],
        top_logprobs=[_by_text(model, one.top) for one in logprobs],
        text_offset=offsets,
    )


def _by_text(model: Model, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """The most probable tokens by their texts; of tokens with the same text, the most probable one."""
    told: dict[str, float] = {}
    for token, logprob in top:
        told.setdefault(_text(model, token), max(_LEAST, logprob))
    return told


def _text(model: Model, token: int) -> str:
    """A token as it stands behind a word: with its space, if it has one."""
    word = model.tokenizer.encode("a", add_special_tokens=False)
    return decode_after(model.decode, word, [token])
