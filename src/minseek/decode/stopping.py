"""Detection of a tag, or of one of several stop strings, in streamed text."""

from __future__ import annotations

from collections.abc import Sequence

from minseek.errors import InputError


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """Check stop strings and return them as a tuple.

    Raises
    ------
    TypeError, InputError
        If `stop` is a single string or holds an empty one.
    """
    if isinstance(stop, str) or not all(isinstance(text, str) for text in stop):
        raise TypeError(f"stop must be a sequence of texts, not {stop!r}: put it into a list")
    if not all(stop):
        raise InputError(f"a stop string must not be empty: {list(stop)!r} would end everything at once")
    return tuple(stop)


class TagWatcher:
    """Releases streamed text until a tag is complete, holding back any text that may be the beginning of a tag.

    Pieces are counted, so that all tokens of a tag can be removed even if it spans several or shares one with text.

    Parameters
    ----------
    tags : str or None
        Tags to find; empty strings and None are ignored. If one piece completes several, the one that begins first
        counts.
    """

    def __init__(self, *tags: str | None) -> None:
        self._tags = [tag for tag in tags if tag]
        self._beginnings = {tag[:count] for tag in self._tags for count in range(1, len(tag))}
        self._longest = max(map(len, self._beginnings), default=0)
        self.found = False
        self._tag = ""  # the tag that was found
        self._held = ""
        self._start = 0  # offset of the held text
        self._ends: list[int] = []  # offset of the end of each piece

    def push(self, piece: str) -> str:
        """Add a piece; return the text that is certainly before any tag."""
        self._held += piece
        self._ends.append(self._start + len(self._held))
        for tag in self._tags:
            if tag in self._held:
                self.found = True
                begin, self._tag = min((i, tag) for tag in self._tags if (i := self._held.find(tag)) >= 0)
                return self._release(begin)
        for count in range(min(self._longest, len(self._held)), 0, -1):
            if self._held[-count:] in self._beginnings:
                return self._release(len(self._held) - count)
        return self._release(len(self._held))

    def pieces_before(self) -> int:
        """Number of pieces that end before the tag begins; all pieces while no tag is found."""
        return sum(end <= self._start for end in self._ends) if self.found else len(self._ends)

    @property
    def rest(self) -> str:
        """Text after the tag, once one is found."""
        return self._held[len(self._tag) :] if self.found else ""

    def flush(self) -> str:
        """Release the held text at the end of the stream."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self._start += count
        return text
