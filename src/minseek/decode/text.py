"""Decoding of tokens to text, incrementally."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # replacement character, decoded from bytes that do not (yet) form a character
_MAX_PENDING = 3  # trailing replacement characters that may still become one character of at most 4 bytes
_CONTEXT = 16  # tokens


def decode_after(decode: Callable[[list[int]], str], before: Sequence[int], tokens: Sequence[int]) -> str:
    """Text of `tokens` when they follow `before`, as a `TextStream` releases it.

    Some tokenizers drop a space at the beginning of a text, and lose a whole run of bytes if the last character of it
    is incomplete.
    """
    context = decode_context(decode, before)
    prefix, text = decode(context) if context else "", decode([*context, *tokens])
    if text.startswith(prefix) and _INCOMPLETE not in text[len(prefix) :]:
        return text[len(prefix) :]
    stream = TextStream(decode, context)
    return "".join(map(stream.push, tokens)) + stream.flush()


def decode_context(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[int]:
    """The last tokens as context for decoding what follows; none if they end within a character."""
    context = _context(decode, tokens)
    return [] if context and decode(context).endswith(_INCOMPLETE) else context


def _context(decode: Callable[[list[int]], str], before: Sequence[int]) -> list[int]:
    """The last tokens from the start of a character: from within one, some tokenizers lose the whole run of bytes."""
    longest = min(len(before), _CONTEXT)
    starts = (n for n in range(1, longest) if _INCOMPLETE not in decode(list(before[-n:])))
    return list(before[len(before) - next(starts, longest) :])


class TextStream:
    """Decodes tokens one at a time; a character that spans several tokens is released with the last one.

    Parameters
    ----------
    decode : callable
        Function from ids to text, such as ``tokenizer.decode``.
    before : sequence of int
        Tokens before the first one: some tokenizers drop a leading space at the beginning of a text.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._released = ""  # released text of the current tokens
        self._restart(_context(decode, before))

    def push(self, token: int) -> str:
        """Add a token; return the text that it completes, possibly empty."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if len(self._ids) - self._context > _MAX_PENDING and not text.startswith(self._released):
            # invalid bytes, in a tokenizer where they corrupt the characters right before them
            self._restart([], held=self._ids[self._context :])
            text = self._decode(self._ids)
        pending = min(_MAX_PENDING, len(text) - len(text.rstrip(_INCOMPLETE)))
        piece = self._release(text[: len(text) - pending])
        if not pending:  # keep only the context: decoding stays cheap however long the text
            self._restart(self._ids[self._context :])
        elif len(self._ids) > 2 * _CONTEXT:
            self._restart([], held=self._ids[-_CONTEXT:])
            self._released = self._decode(self._ids)[:-pending]
        return piece

    def flush(self) -> str:
        """Release the remaining text, complete or not."""
        text = self._decode(self._ids)
        if not text.startswith(self._released):  # the incomplete character takes the one before it with it
            text = self._released + self._decode(self._ids[self._context :])
        return self._release(text)

    def _restart(self, context: list[int], held: Sequence[int] = ()) -> None:
        self._ids, self._context = [*context, *held], len(context)
        self._released = self._decode(context) if context else ""

    def _release(self, text: str) -> str:
        if not text.startswith(self._released):
            return ""
        piece, self._released = text[len(self._released) :], text
        return piece
