"""Finding a tag, or one of several stop strings, in text that arrives piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

from minseek.errors import InputError


def check_stop(stop: Sequence[str]) -> tuple[str, ...]:
    """Stop strings as a tuple.

    Raises
    ------
    TypeError, InputError
        If it is one string, or one of them is empty.
    """
    if isinstance(stop, str) or not all(isinstance(text, str) for text in stop):
        raise TypeError(f"stop must be a sequence of texts, not {stop!r}: put it into a list")
    if not all(stop):
        raise InputError(f"a stop string must not be empty: {list(stop)!r} would end everything at once")
    return tuple(stop)


class TagWatcher:
    """Releases text until a tag is complete; holds back whatever could be the beginning of one.

    Pieces are counted, so that a tag spread over several tokens, or sharing one with other text, can be taken back.

    Parameters
    ----------
    tags : str or None
        What is looked for; empty ones and None are never found. Where one piece completes several of them, the one that
        begins first counts.
    """

    def __init__(self, *tags: str | None) -> None:
        self._tags = [tag for tag in tags if tag]
        self._beginnings = {tag[:count] for tag in self._tags for count in range(1, len(tag))}
        self._longest = max(map(len, self._beginnings), default=0)
        self.found = False
        self._tag = ""  # the one that was found
        self._held = ""
        self._start = 0  # offset of the held text
        self._ends: list[int] = []  # where each piece ended

    def push(self, piece: str) -> str:
        """Take the next piece; give the text that certainly lies before any tag."""
        self._held += piece
        self._ends.append(self._start + len(self._held))
        for tag in self._tags:
            if tag in self._held:
                self.found = True
                at, self._tag = min((at, tag) for tag in self._tags if (at := self._held.find(tag)) >= 0)
                return self._release(at)
        for count in range(min(self._longest, len(self._held)), 0, -1):
            if self._held[-count:] in self._beginnings:
                return self._release(len(self._held) - count)
        return self._release(len(self._held))

    def pieces_before(self) -> int:
        """Pieces that end before the tag begins (all of them while none was found)."""
        return sum(end <= self._start for end in self._ends) if self.found else len(self._ends)

    @property
    def rest(self) -> str:
        """Text behind the tag, once it was found."""
        return self._held[len(self._tag) :] if self.found else ""

    def flush(self) -> str:
        """The text held back, once no more will come."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self._start += count
        return text
