"""Texts of tokens, so that those of all tokens, joined, are the text that a client receives."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from minseek.decode import TokenLogprob


@dataclass
class _Pending:
    """A token whose text is not certain yet: characters of it that are decided, and those of them that remain."""

    logprob: TokenLogprob
    decided: int = 0
    kept: str = ""


class TokenTexts:
    """Divides a released text among the tokens that it was decoded from.

    The released text is that of the tokens without the parts that a response leaves out: tags, white space around it,
    a stop string. A token that lies in such a part has an empty text. A character that
    spans several tokens is the text of the last one.
    """

    def __init__(self) -> None:
        self._pending: list[_Pending] = []
        self._unowned = ""  # released before any token: the end of a close tag's token

    def add(self, logprob: TokenLogprob) -> None:
        """Add the next token, with the text that it completes."""
        self._pending.append(_Pending(logprob))

    def release(self, text: str) -> list[TokenLogprob]:
        """Divide a text that is certain now; return the tokens that are complete, with their texts."""
        text = self._unowned + text
        self._unowned = ""
        done = matched = 0
        for entry in self._pending:
            raw = entry.logprob.text or ""
            while entry.decided < len(raw) and matched < len(text):
                if raw[entry.decided] == text[matched]:
                    entry.kept += text[matched]
                    matched += 1
                entry.decided += 1
            if matched == len(text):
                done += entry.decided == len(raw) and matched > 0
                break
            done += 1
        rest = text[matched:]
        if rest and self._pending:
            self._pending[-1].kept += rest
        else:
            self._unowned = rest
        complete, self._pending = self._pending[:done], self._pending[done:]
        return [replace(entry.logprob, text=entry.kept) for entry in complete]

    def finish(self, *, stopped: bool) -> list[TokenLogprob]:
        """Return the tokens that are left; those after the last text belong to the stop string, if there is one."""
        left = self._pending
        while stopped and left and not left[-1].kept:
            left = left[:-1]
        self._pending = []
        return [replace(entry.logprob, text=entry.kept) for entry in left]


def divide(text: str, logprobs: Iterable[TokenLogprob]) -> list[TokenLogprob]:
    """Divide a whole text among the tokens that it was decoded from."""
    texts = TokenTexts()
    for logprob in logprobs:
        texts.add(logprob)
    return texts.release(text) + texts.finish(stopped=False)
