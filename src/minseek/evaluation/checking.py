"""Comparison of answers with the expected ones."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from minseek.evaluation.tasks import letters
from minseek.evaluation.verifier import Verifier
from minseek.reasoning.answer_extraction import final_answer

_LONGEST = 500  # characters of an answer that is read as an expression
_VERIFIER = Verifier()
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[!,;: ]|~|\s+")
_WORDS = re.compile(r"[^\W\d_]{2,}")
_LIST = re.compile(r"\d[\d.]*\s+[-+]?\d")
_NUMBER = re.compile(r"[-+]?\d{1,50}(\.\d{1,50})?")
_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.):,].*)?", re.DOTALL)
_SAID = re.compile(r"(?i:answer)(?:\s+is)?[\s:*(]*([A-Z])\b")


def is_correct(answer: str, expected: str, choices: int = 0) -> bool:
    """Compare an answer with the expected one; never raises.

    The text that `minseek.reasoning.answer_extraction.final_answer` finds is compared: the content of the last
    ``\\boxed{…}`` if there is one. Equal texts are correct, apart from invisible LaTeX, spaces, and the case of words,
    and so are equal numbers. Otherwise math-verify compares the two as mathematical expressions, unless one of them is
    words or several numbers: it would multiply the letters of "listen", and add up "1 2 3".

    Parameters
    ----------
    answer : str
        The model's answer, in full.
    expected : str
        The task's answer.
    choices : int
        Number of choices of the question; then `expected` is a letter. 0 for an open answer.
    """
    given = final_answer(answer)
    if choices:
        return _letter(given, letters(choices)) == expected
    return _equal(expected, given, boxed="\\boxed" in answer)


@lru_cache(maxsize=65536)  # a chain's answers are mostly the same
def _equal(expected: str, given: str, boxed: bool) -> bool:
    wanted, found = _plain(expected), _plain(given)
    if wanted == found:
        return True
    if _NUMBER.fullmatch(wanted) and _NUMBER.fullmatch(found):
        return Fraction(wanted) == Fraction(found)
    if len(given) > _LONGEST or not (_is_expression(wanted) and _is_expression(found)):
        return False
    return _VERIFIER.equal(f"${expected}$", f"\\boxed{{{given}}}" if boxed else given)


def _is_expression(plain: str) -> bool:
    """True if math-verify should parse it: neither words only nor several numbers."""
    words = _WORDS.search(plain) and "\\" not in plain and not any(mark.isdigit() for mark in plain)
    return bool(plain) and not words and not _LIST.search(plain)


def _plain(text: str) -> str:
    """An answer without the parts that do not change its meaning."""
    text = _bare(text)
    return text.casefold() if _WORDS.search(text) and "\\" not in text else text


def _bare(text: str) -> str:
    text = text.strip().strip("$").removeprefix("\\(").removesuffix("\\)")
    text = _TEXT.sub(r"\1", text).replace("\\left", "").replace("\\right", "")
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACES.sub(" ", text).strip().removesuffix(".").strip()


def _letter(given: str, names: tuple[str, ...]) -> str | None:
    """The letter that an answer to a question with choices names."""
    text = _bare(given)
    whole = _LETTER.fullmatch(text.upper() if len(text) == 1 else text)
    said = _SAID.findall(given)
    found = whole[1] if whole else said[-1] if said else None
    return found if found in names else None
