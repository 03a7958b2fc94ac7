"""Text from tokens, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a tokenizer writes for bytes that do not (yet) form a character
_LONGEST_CHARACTER = 4  # bytes, hence tokens, that one character can be spread over


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
        self._ids = list(before[-_LONGEST_CHARACTER:])
        self._known = len(self._ids)  # tokens whose text has been given out

    def push(self, token: int) -> str:
        """The text that this token completes, perhaps none."""
        self._ids.append(token)
        return self._take(force=len(self._ids) - self._known > _LONGEST_CHARACTER)

    def flush(self) -> str:
        """What is left, complete or not."""
        return self._take(force=True)

    def _take(self, force: bool) -> str:
        known = self._decode(self._ids[: self._known])
        text = self._decode(self._ids)
        if text.endswith(_INCOMPLETE) and not force:
            return ""
        # Only the last tokens matter for what follows: decoding stays cheap however long the text.
        self._ids = self._ids[max(0, len(self._ids) - _LONGEST_CHARACTER) :]
        piece = text[len(known) :]
        self._known = len(self._ids)
        return piece
