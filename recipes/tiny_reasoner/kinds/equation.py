"""Linear equations with whole solutions: Solve 3(x+2)+1=x+15 for x."""

from __future__ import annotations

from random import Random

from recipes.tiny_reasoner.sheet import Sheet, factor


class Equation:
    """a(x+b)+c = d(x+e)+f; easy ones have fewer terms, the hardest have three-digit intermediate results."""

    ways = ("", "put it in")

    def __init__(self, rng: Random, difficulty: int) -> None:
        while True:
            self._x = rng.randint(-9, 9 + 3 * difficulty)
            a, d = rng.randint(2, 4 + 2 * difficulty), rng.randint(1, 9) if difficulty > 1 else 0
            b = rng.randint(1, 9) if difficulty > 2 else 0
            e = rng.randint(1, 9) if difficulty > 3 else 0
            c = rng.randint(1, 20) if difficulty < 3 or difficulty > 4 else 0
            f = a * (self._x + b) + c - d * (self._x + e)
            if a != d:
                break
        self._left, self._right = (a, b, c), (d, e, f)

    @property
    def prompt(self) -> str:
        return f"Solve {_side(*self._left)}={_side(*self._right)} for x."

    @property
    def answer(self) -> str:
        return str(self._x)

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        if way == 1 and before.lstrip("-").isdigit():
            x = int(before)
            left, right = (self._put_in(sheet, side, x) for side in (self._left, self._right))
            return before if left == right else f"{left} is not {right}"
        a, left = self._expanded(sheet, self._left)
        d, right = self._expanded(sheet, self._right)
        k = sheet.number(f"{a}-{factor(d)}", a - d) if d else a
        m = sheet.number(f"{right}-{factor(left)}", right - left) if left else right
        return str(sheet.number(f"{m}/{factor(k)}", round(m / k) if k else 0))

    def carefully(self, sheet: Sheet) -> str:
        """Write the equation after every step, with subtracted terms first."""
        sheet.note(f"{_side(*self._left)}={_side(*self._right)}")
        a, left = self._expanded(sheet, self._left, turned=True)
        d, right = self._expanded(sheet, self._right, turned=True)
        if sheet.steps:
            sheet.note(f"{_side(a, 0, left)}={_side(d, 0, right)}")
        if left:
            m = sheet.number(f"{-left}+{factor(right)}", right - left)
            sheet.note(f"{_side(a, 0, 0)}={_side(d, 0, m)}")
        else:
            m = right
        if d:
            k = sheet.number(f"{-d}+{factor(a)}", a - d)
            sheet.note(f"{_side(k, 0, 0)}={m}")
        else:
            k = a
        x = sheet.number(f"{m}/{factor(k)}", round(m / k))
        sheet.number(f"{k}*{factor(x)}", k * x)
        return str(x)

    def _expanded(self, sheet: Sheet, side: tuple[int, int, int], *, turned: bool = False) -> tuple[int, int]:
        """Expand a side to ax+c."""
        a, b, c = side
        if not b or not a:
            return a, c
        product = sheet.number(f"{b}*{factor(a)}" if turned else f"{a}*{factor(b)}", a * b)
        if not c:
            return a, product
        return a, sheet.number(f"{c}+{factor(product)}" if turned else f"{product}+{factor(c)}", product + c)

    def _put_in(self, sheet: Sheet, side: tuple[int, int, int], x: int) -> int:
        a, b, c = side
        if not a:
            return c
        inner = sheet.number(f"{x}+{b}", x + b) if b else x
        product = sheet.number(f"{a}*{factor(inner)}", a * inner) if a != 1 else inner
        return sheet.number(f"{product}+{factor(c)}", product + c) if c else product


def _side(a: int, b: int, c: int) -> str:
    """Format a(x+b)+c without terms that are 0."""
    if not a:
        return str(c)
    x = f"{'-' if a == -1 else '' if a == 1 else a}" + (f"(x+{b})" if b and a != 1 else f"x+{b}" if b else "x")
    return x + (f"{c:+d}" if c else "")
