"""Log-probabilities in the two formats of OpenAI's responses."""

from __future__ import annotations

from collections.abc import Sequence

from minseek.decode import TokenLogprob, decode_after
from minseek.models import Model
from minseek.protocol.responses import ChatLogprob, CompletionLogprobs, TopLogprob
from minseek.protocol.token_bytes import token_bytes

_MIN_LOGPROB = -9999.0  # OpenAI's value for a very unlikely token: JSON has no infinity
_INCOMPLETE = "\ufffd"  # decoded from bytes that do not form a character by themselves


def chat_logprobs(model: Model, logprobs: Sequence[TokenLogprob]) -> list[ChatLogprob]:
    """Format for chats: each token with the most likely ones in its place."""
    return [
        ChatLogprob(
            **_token(model, entry.token, entry.logprob, entry.text).model_dump(),
            top_logprobs=[_token(model, token, logprob) for token, logprob in entry.top],
        )
        for entry in logprobs
    ]


def _token(model: Model, token: int, logprob: float, text: str | None = None) -> TopLogprob:
    """Format a token; `text` is what it completes in a response.

    The bytes of a character that spans several tokens are divided among them, also if it is never completed.
    """
    alone = _text(model, token)
    shown = alone if text is None else text
    # An incomplete character before the token is shown with it, and its bytes are those of earlier tokens.
    complete = list(shown.replace(_INCOMPLETE, "").encode())
    own = token_bytes(model, token, alone) if _INCOMPLETE in alone else complete
    return TopLogprob(token=shown, logprob=max(_MIN_LOGPROB, logprob), bytes=own)


def completion_logprobs(model: Model, logprobs: Sequence[TokenLogprob], offset: int = 0) -> CompletionLogprobs:
    """Format for completions: one list a figure; `offset` is the length of the text before the first token."""
    tokens = [_own_text(model, entry) for entry in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return CompletionLogprobs(
        tokens=tokens,
        token_logprobs=[max(_MIN_LOGPROB, entry.logprob) for entry in logprobs],
        top_logprobs=[_by_text(model, entry.top) for entry in logprobs],
        text_offset=offsets,
    )


def _by_text(model: Model, top: Sequence[tuple[int, float]]) -> dict[str, float]:
    """Most likely tokens by text; of several tokens with the same text, the most likely one."""
    by_text: dict[str, float] = {}
    for token, logprob in top:
        by_text.setdefault(_text(model, token), max(_MIN_LOGPROB, logprob))
    return by_text


def _own_text(model: Model, entry: TokenLogprob) -> str:
    """Text that a chosen token has in the response."""
    return _text(model, entry.token) if entry.text is None else entry.text


def _text(model: Model, token: int) -> str:
    """Text of a token by itself, as if it followed a word, with its leading space if it has one."""
    word = model.tokenizer.encode("a", add_special_tokens=False)
    return decode_after(model.decode, word, [token])
