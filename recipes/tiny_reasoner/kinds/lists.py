"""Lists changed step by step: Take 5 2 9 1. Sort it, reverse it, add 2 to each. What is the list?"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from recipes.tiny_reasoner.sheet import Sheet, shown

_PLAIN = ("sort", "reverse", "drop the first", "drop the last", "swap the ends", "keep the even", "keep the odd")


class Lists:
    """A list of `difficulty + 2` numbers and 2 to 4 changes; half of the questions ask for the sum."""

    ways = ("", "from the back")

    def __init__(self, rng: Random, difficulty: int) -> None:
        while True:
            self._list = [rng.randint(0, 20) for _ in range(difficulty + 2)]
            self._changes = [_pick(rng) for _ in range(2 + difficulty // 2)]
            self._sum = rng.random() < 0.5
            names = [name for name, _ in self._changes]
            repeated = any(a == b and a in _PLAIN for a, b in pairwise(names))
            if self._result() and not repeated:
                break

    def _result(self) -> list[int]:
        values = self._list
        for change in self._changes:
            values = _changed(values, *change)
        return values

    @property
    def prompt(self) -> str:
        changes = ", ".join(_describe(*change) for change in self._changes)
        question = "What is the sum?" if self._sum else "What is the list?"
        return f"Take {shown(self._list)}: {changes}. {question}"

    @property
    def answer(self) -> str:
        return str(sum(self._result())) if self._sum else shown(self._result())

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        values = self._list
        if way == 0:
            for change in self._changes:
                values = sheet.list(change[0].split()[-1], _changed(values, *change))
            return self._ended(sheet, values)
        sheet.note(shown(values[::-1]))
        for change in self._changes:
            values = sheet.list(_describe(*change), _changed(values, *change)[::-1])[::-1]
        return self._ended(sheet, values, backwards=True)

    def carefully(self, sheet: Sheet) -> str:
        """Write each change after the list that it changes."""
        values = self._list
        for change in self._changes:
            sheet.note(f"{_describe(*change)} of {shown(values)}")
            values = sheet.list("gives", _changed(values, *change))
        return self._ended(sheet, values)

    def _ended(self, sheet: Sheet, values: list[int], *, backwards: bool = False) -> str:
        if not self._sum:
            return shown(sheet.list("turned", values) if backwards else values)
        ordered = values[::-1] if backwards else values
        total = ordered[0] if ordered else 0
        for value in ordered[1:]:
            total = sheet.number(f"{total}+{value}", total + value)
        return str(total)


def _pick(rng: Random) -> tuple[str, int]:
    name = rng.choice((*_PLAIN, "rotate", "add", "times"))
    return name, rng.randint(1, 3) if name == "rotate" else rng.randint(2, 9) if name == "add" else 2


def _describe(name: str, count: int) -> str:
    if name == "rotate":
        return f"rotate left by {count}"
    return f"add {count} to each" if name == "add" else "double each" if name == "times" else name


def _changed(values: list[int], name: str, count: int) -> list[int]:
    if name == "rotate":
        count %= max(1, len(values))
        return values[count:] + values[:count]
    changes = {
        "sort": lambda: sorted(values),
        "reverse": lambda: values[::-1],
        "drop the first": lambda: values[1:],
        "drop the last": lambda: values[:-1],
        "swap the ends": lambda: [*values[-1:], *values[1:-1], *values[:1]] if len(values) > 1 else values,
        "keep the even": lambda: [v for v in values if v % 2 == 0],
        "keep the odd": lambda: [v for v in values if v % 2],
        "add": lambda: [v + count for v in values],
        "times": lambda: [2 * v for v in values],
    }
    return changes[name]()
