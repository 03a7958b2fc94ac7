"""Extraction of the final answer from a text, so that answers can be compared."""

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
        The content of the last ``\boxed{…}`` with balanced braces; without one, the text after the last
        "Final answer:"; without that, or if it is empty, the whole text. White space is squeezed.
    """
    box = _last_box(text)
    if box is not None:
        return _squeeze(box)
    return _squeeze(text.rpartition(_CUE)[2]) or _squeeze(text)


def _last_box(text: str) -> str | None:
    """The content of the closed box that begins last; a brace after a backslash is only a character."""
    open_braces: list[int | None] = []  # start of a box's content; None for a brace that opens no box
    best: tuple[int, int] | None = None
    i = 0
    while i < len(text):
        if text.startswith(_BOX, i):
            i += len(_BOX)
            open_braces.append(i)
            continue
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            open_braces.append(None)
        elif text[i] == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and (best is None or begin > best[0]):
                best = begin, i
        i += 1
    return None if best is None else text[best[0] : best[1]]


def _squeeze(text: str) -> str:
    return " ".join(text.split())
