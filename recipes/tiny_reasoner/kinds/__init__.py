"""The kinds of problems; each module has one class with the same members as `Problem`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from recipes.tiny_reasoner.kinds.arithmetic import Arithmetic
from recipes.tiny_reasoner.kinds.equation import Equation
from recipes.tiny_reasoner.kinds.lists import Lists
from recipes.tiny_reasoner.kinds.modular import Modular
from recipes.tiny_reasoner.kinds.sequence import Sequence
from recipes.tiny_reasoner.sheet import Sheet


class Problem(Protocol):
    """A problem that knows its answer and how it is derived.

    Attributes
    ----------
    ways : tuple of str
        What introduces each way to derive the result again; the first one is that of the first thought, and is not
        written.
    """

    ways: tuple[str, ...]

    @property
    def prompt(self) -> str: ...

    @property
    def answer(self) -> str: ...

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        """Write the derivation and give its result; `before` is what the thought before it came to."""

    def carefully(self, sheet: Sheet) -> str:
        """Write the derivation in small steps and give its result."""


KINDS: dict[str, Callable[[Random, int], Problem]] = {
    "arithmetic": Arithmetic,
    "modular": Modular,
    "equation": Equation,
    "list": Lists,
    "sequence": Sequence,
}
"""Problems by kind, made from a source of chance and a difficulty from 1 to 5."""
