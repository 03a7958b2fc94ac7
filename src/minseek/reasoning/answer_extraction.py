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
    box = _last_box(text)
    if box is not None:
        return _squeezed(box)
    return _squeezed(text.rpartition(_CUE)[2]) or _squeezed(text)


def _last_box(text: str) -> str | None:
    """What is in the box that begins last, of those that are closed; a brace behind a backslash is only a character."""
    open_braces: list[int | None] = []  # where the inside of a box begins; None for a brace that is no box's
    best: tuple[int, int] | None = None
    at = 0
    while at < len(text):
        if text.startswith(_BOX, at):
            at += len(_BOX)
            open_braces.append(at)
            continue
        if text[at] == "\\":
            at += 1
        elif text[at] == "{":
            open_braces.append(None)
        elif text[at] == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and (best is None or begin > best[0]):
                best = begin, at
        at += 1
    return None if best is None else text[best[0] : best[1]]


def _squeezed(text: str) -> str:
    return " ".join(text.split())
