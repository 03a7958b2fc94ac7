"""Sequences to continue: 5 8 13 20 29. What comes 2 terms later?"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from recipes.tiny_reasoner.sheet import Sheet, factor, shown


class Sequence:
    """Constant, linearly growing or doubling differences; harder problems ask for a later term."""

    ways = ("", "from the first at once")

    def __init__(self, rng: Random, difficulty: int) -> None:
        rule = rng.choice(("same", "grow", "double")) if difficulty > 1 else "same"
        self._double = rule == "double"
        self._growth = rng.choice((-7, -5, -3, -2, -1, 1, 2, 3, 4, 5, 6, 8)) if rule == "grow" else 0
        self._step = rng.randint(1, 6) if self._double else rng.randint(-15, 25)
        self._first = rng.randint(-20, 60)
        self._terms_later = 1 + difficulty // 2 - (rule == "double" and difficulty > 3)
        self._terms = self._until(4)

    def _until(self, steps: int) -> list[int]:
        terms, step = [self._first], self._step
        for _ in range(steps):
            terms.append(terms[-1] + step)
            step = step * 2 if self._double else step + self._growth
        return terms

    @property
    def prompt(self) -> str:
        later = "next" if self._terms_later == 1 else f"{self._terms_later} terms later"
        return f"Go on with {shown(self._terms)}. What comes {later}?"

    @property
    def answer(self) -> str:
        return str(self._until(4 + self._terms_later)[-1])

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        if way == 0:
            steps = [sheet.number(f"{b}-{factor(a)}", b - a) for a, b in pairwise(self._terms)]
            sheet.note(self._rule())
            return str(self._go_on(sheet, self._terms[-1], steps[-1], self._terms_later))
        step = sheet.number(f"{self._terms[1]}-{factor(self._first)}", self._terms[1] - self._first)
        sheet.note(self._rule())
        steps = 4 + self._terms_later
        times = 2**steps - 1 if self._double else steps
        way = sheet.number(f"{times}*{factor(step)}", times * step)
        if self._growth:
            pairs = steps * (steps - 1) // 2
            more = sheet.number(f"{pairs}*{factor(self._growth)}", pairs * self._growth)
            way = sheet.number(f"{way}+{factor(more)}", way + more)
        return str(sheet.number(f"{self._first}+{factor(way)}", self._first + way))

    def carefully(self, sheet: Sheet) -> str:
        """Also compute second differences, and exchange the operands of every sum."""
        steps = []
        for a, b in pairwise(self._terms):
            sheet.note(f"from {a} to {b}")
            steps.append(sheet.number(f"{-a}+{factor(b)}", b - a))
        for a, b in pairwise(steps):
            sheet.number(f"{-a}+{factor(b)}", b - a)
        sheet.note(self._rule())
        return str(self._go_on(sheet, self._terms[-1], steps[-1], self._terms_later, turned=True))

    def _rule(self) -> str:
        return "doubles" if self._double else f"grows by {self._growth}" if self._growth else "stays"

    def _go_on(self, sheet: Sheet, term: int, step: int, count: int, *, turned: bool = False) -> int:
        for _ in range(count):
            if self._double:
                step = sheet.number(f"{step}+{factor(step)}" if turned else f"2*{factor(step)}", 2 * step)
            elif self._growth:
                step = sheet.number(f"{step}+{factor(self._growth)}", step + self._growth)
            term = sheet.number(f"{step}+{factor(term)}" if turned else f"{term}+{factor(step)}", term + step)
        return term
