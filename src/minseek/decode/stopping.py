"""Finding a tag in text that arrives piece by piece."""

from __future__ import annotations


class TagWatcher:
    """Releases text until a tag is complete; holds back whatever could be the tag's beginning.

    Pieces are counted, so that a tag spread over several tokens, or sharing one with other text, can be taken back.
    """

    def __init__(self, tag: str | None) -> None:
        self.tag = tag
        self.found = False
        self._held = ""
        self._start = 0  # offset of the held text
        self._ends: list[int] = []  # where each piece ended

    def push(self, piece: str) -> str:
        """Take the next piece; give the text that certainly lies before any tag."""
        self._held += piece
        self._ends.append(self._start + len(self._held))
        if not self.tag:
            return self._release(len(self._held))
        at = self._held.find(self.tag)
        if at >= 0:
            self.found = True
            return self._release(at)
        longest = min(len(self.tag) - 1, len(self._held))
        held = next((n for n in range(longest, 0, -1) if self._held.endswith(self.tag[:n])), 0)
        return self._release(len(self._held) - held)

    def pieces_before(self) -> int:
        """Pieces that end before the tag begins (all of them while none was found)."""
        return sum(end <= self._start for end in self._ends) if self.found else len(self._ends)

    @property
    def rest(self) -> str:
        """Text behind the tag, once it was found."""
        return self._held[len(self.tag or "") :] if self.found else ""

    def flush(self) -> str:
        """The text held back, once no more will come."""
        return "" if self.found else self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self._start += count
        return text
