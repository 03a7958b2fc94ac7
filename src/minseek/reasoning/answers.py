"""What an answer comes down to, so that answers can be compared."""

from __future__ import annotations

_BOX = "\\boxed{"
_CUE = "Final answer:"


def final_answer(text: str) -> str:
    r"""The part of an answer that is compared with others.

    Parameters
    ----------
    text : str
        A whole answer.

    Returns
    -------
    str
        What is in the last ``\boxed{…}`` whose braces are balanced; without one, what stands behind the last
        "Final answer:"; without that, or if nothing stands there, the whole text. White space is squeezed.
    """
    end = len(text)
    while (at := text.rfind(_BOX, 0, end)) >= 0:
        inside = _balanced(text[at + len(_BOX) :])
        if inside is not None:
            return _squeezed(inside)
        end = at
    return _squeezed(text.rpartition(_CUE)[2]) or _squeezed(text)


def _balanced(text: str) -> str | None:
    """The text before the brace that closes one already open; a brace behind a backslash is only a character."""
    depth, at = 1, 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] in "{}":
            depth += 1 if text[at] == "{" else -1
            if depth == 0:
                return text[:at]
        at += 1
    return None


def _squeezed(text: str) -> str:
    return " ".join(text.split())
