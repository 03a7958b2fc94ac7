"""Kinds of problems; each module has one class that implements `Problem`."""

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
    """A problem with its answer and derivations.

    Attributes
    ----------
    ways : tuple of str
        Phrases that introduce each way to derive the result again; the first is for the first thought and is not
        written.
    """

    ways: tuple[str, ...]

    @property
    def prompt(self) -> str: ...

    @property
    def answer(self) -> str: ...

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        """Write the derivation and return its result; `before` is the result of the previous thought."""

    def carefully(self, sheet: Sheet) -> str:
        """Write the derivation in small steps and return its result."""


KINDS: dict[str, Callable[[Random, int], Problem]] = {
    "arithmetic": Arithmetic,
    "modular": Modular,
    "equation": Equation,
    "list": Lists,
    "sequence": Sequence,
}
"""Constructors of problems by kind, from a random generator and a difficulty of 1 to 5."""
