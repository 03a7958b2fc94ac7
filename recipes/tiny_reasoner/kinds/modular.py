"""Chains of steps modulo a number: Start with x=7. Then x=3x+2 mod 11. Then x=5x+1 mod 11. What is x?"""

from __future__ import annotations

from random import Random

from recipes.tiny_reasoner.sheet import Sheet


class Modular:
    """A chain of 2 to 4 steps."""

    ways = ("", "with smaller numbers")

    def __init__(self, rng: Random, difficulty: int) -> None:
        self._modulus = rng.randint(5, 29)
        self._start = rng.randrange(self._modulus)
        self._steps = [(rng.randint(2, 9), rng.randint(1, 9)) for _ in range(2 + difficulty // 2)]

    @property
    def prompt(self) -> str:
        steps = "; ".join(f"x={a}x+{b}" for a, b in self._steps)
        return f"Modulo {self._modulus}, start with x={self._start}, then {steps}. What is x?"

    @property
    def answer(self) -> str:
        x = self._start
        for a, b in self._steps:
            x = (a * x + b) % self._modulus
        return str(x)

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        x, m = self._start, self._modulus
        for a, b in self._steps:
            if way == 0:
                x = self._rest(sheet, sheet.number(f"{a}*{x}+{b}", a * x + b))
            else:
                x = self._rest(sheet, sheet.number(f"{a}*{x}", a * x))
                x = self._rest(sheet, sheet.number(f"{x}+{b}", x + b))
            x %= m  # a slip may leave the range
        return str(x)

    def carefully(self, sheet: Sheet) -> str:
        """Compute every remainder by subtracting a multiple."""
        x, m = self._start, self._modulus
        for a, b in self._steps:
            sheet.note(f"x={a}x+{b}")
            product = sheet.number(f"{a}*{x}", a * x)
            total = sheet.number(f"{product}+{b}", product + b)
            if total >= m:
                multiple = sheet.number(f"{total // m}*{m}", total // m * m)
                total = sheet.number(f"{total}-{multiple}", total - multiple)
            x = total % m
        return str(x)

    def _rest(self, sheet: Sheet, value: int) -> int:
        return sheet.number(f"{value} mod {self._modulus}", value % self._modulus) if value >= self._modulus else value
