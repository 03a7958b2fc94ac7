"""Text from tokens, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a tokenizer writes for bytes that do not (yet) form a character
_WAITING = 3  # such marks at the end of a text may still become one character: it has at most 4 bytes
_CONTEXT = 16


def decode_behind(decode: Callable[[list[int]], str], before: Sequence[int], tokens: Sequence[int]) -> str:
    """The text of tokens as it continues that of those before; some tokenizers drop a space at a text's beginning."""
    context = text_end(decode, before)
    given, text = decode(context) if context else "", decode([*context, *tokens])
    return text[len(given) :] if text.startswith(given) else decode(list(tokens))


def text_end(decode: Callable[[list[int]], str], tokens: Sequence[int]) -> list[int]:
    """The last tokens of a text that goes on; none where they end within a character, so that what follows is apart."""
    context = _context(decode, tokens)
    return [] if context and decode(context).endswith(_INCOMPLETE) else context


def _context(decode: Callable[[list[int]], str], before: Sequence[int]) -> list[int]:
    """The last tokens, from where a character starts: within one, some tokenizers lose the whole run of bytes."""
    longest = min(len(before), _CONTEXT)
    starts = (n for n in range(1, longest) if _INCOMPLETE not in decode(list(before[-n:])))
    return list(before[len(before) - next(starts, longest) :])


class TextStream:
    """Decodes tokens one at a time; a character split over several tokens comes out whole with the last of them.

    Parameters
    ----------
    decode : callable
        Ids to text, as ``tokenizer.decode``.
    before : sequence of int
        Tokens that stand before the first one: some tokenizers drop a leading space at the beginning of a text.
    """

    def __init__(self, decode: Callable[[list[int]], str], before: Sequence[int] = ()) -> None:
        self._decode = decode
        self._given = ""  # text of the tokens at hand that has been given out
        self._restart(_context(decode, before))

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token)
        text = self._decode(self._ids)
        if len(self._ids) - self._context > _WAITING and not text.startswith(self._given):
            # invalid bytes, in a tokenizer where they spoil the characters that stand right before them
            self._restart([], held=self._ids[self._context :])
            text = self._decode(self._ids)
        waiting = min(_WAITING, len(text) - len(text.rstrip(_INCOMPLETE)))
        piece = self._give(text[: len(text) - waiting])
        if not waiting:  # only the last tokens matter for what follows: decoding stays cheap however long the text
            self._restart(self._ids[self._context :])
        elif len(self._ids) > 2 * _CONTEXT:
            self._restart([], held=self._ids[-_CONTEXT:])
            self._given = self._decode(self._ids)[:-waiting]
        return piece

    def flush(self) -> str:
        """What is left, complete or not."""
        return self._give(self._decode(self._ids))

    def _restart(self, context: list[int], held: Sequence[int] = ()) -> None:
        self._ids, self._context = [*context, *held], len(context)
        self._given = self._decode(context) if context else ""

    def _give(self, text: str) -> str:
        if not text.startswith(self._given):
            return ""
        piece, self._given = text[len(self._given) :], text
        return piece
