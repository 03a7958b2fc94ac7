"""Arithmetic with brackets: Compute (7+5)*3-4*(9-2)."""

from __future__ import annotations

from random import Random

from recipes.tiny_reasoner.sheet import Sheet, factor

Tree = int | tuple[str, "Tree", "Tree"]
_LARGEST = 999
_RANK = {"+": 1, "-": 1, "*": 2}


class Arithmetic:
    """An expression of `difficulty + 1` operators over small numbers."""

    ways = ("", "turned round")

    def __init__(self, rng: Random, difficulty: int) -> None:
        while True:
            self._tree = _grow(rng, difficulty + 1)
            if _is_small(self._tree):
                break

    @property
    def prompt(self) -> str:
        return f"Compute {_format(self._tree)}."

    @property
    def answer(self) -> str:
        return str(_value(self._tree))

    def derive(self, sheet: Sheet, way: int, before: str) -> str:
        return str(_work_out(self._tree, sheet, turned=way == 1))

    def carefully(self, sheet: Sheet) -> str:
        """Write the whole expression after every step, with products split into tens and ones."""
        tree = self._tree
        while not isinstance(tree, int):
            sheet.note(_format(tree))
            tree = _reduce(tree, sheet)
        return str(tree)


def _grow(rng: Random, operators: int) -> Tree:
    if operators == 0:
        return rng.randint(1, 20)
    left = rng.randrange(operators)
    return rng.choice("+-*"), _grow(rng, left), _grow(rng, operators - 1 - left)


def _apply(operator: str, left: int, right: int) -> int:
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def _value(tree: Tree) -> int:
    return tree if isinstance(tree, int) else _apply(tree[0], _value(tree[1]), _value(tree[2]))


def _is_small(tree: Tree) -> bool:
    """True if no step exceeds three digits and every product has a one-digit factor."""
    if isinstance(tree, int):
        return True
    left, right = _value(tree[1]), _value(tree[2])
    if tree[0] == "*" and min(abs(left), abs(right)) > 9:
        return False
    return abs(_value(tree)) <= _LARGEST and _is_small(tree[1]) and _is_small(tree[2])


def _format(tree: Tree, operator_before: str = "") -> str:
    """Format an expression that follows an operator, if any."""
    if isinstance(tree, int):
        return factor(tree) if operator_before else str(tree)
    operator, left, right = tree
    inner = _format_left(left, operator) + operator + _format(right, operator)
    # Brackets even where they could be left out, so that the order of the steps can be read.
    return f"({inner})" if operator_before and _RANK[operator] <= _RANK[operator_before] else inner


def _format_left(tree: Tree, operator: str) -> str:
    if isinstance(tree, int) or _RANK[tree[0]] >= _RANK[operator]:
        return _format(tree)
    return f"({_format(tree)})"


def _work_out(tree: Tree, sheet: Sheet, *, turned: bool) -> int:
    """Evaluate from the left, or from the right with exchanged operands, so that no line repeats an earlier one."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree
    if not turned:
        a, b = _work_out(left, sheet, turned=False), _work_out(right, sheet, turned=False)
        return sheet.number(f"{a}{operator}{factor(b)}", _apply(operator, a, b))
    b = _work_out(right, sheet, turned=True)
    a = _work_out(left, sheet, turned=True)
    written = f"{-b}+{factor(a)}" if operator == "-" else f"{b}{operator}{factor(a)}"
    return sheet.number(written, _apply(operator, a, b))


def _reduce(tree: tuple[str, Tree, Tree], sheet: Sheet) -> Tree:
    """Evaluate the first step of a tree."""
    operator, left, right = tree
    if not isinstance(left, int):
        return operator, _reduce(left, sheet), right
    if not isinstance(right, int):
        return operator, left, _reduce(right, sheet)
    if operator == "*" and max(abs(left), abs(right)) > 9:
        large, small = (left, right) if abs(left) >= abs(right) else (right, left)
        tens = int(large / 10) * 10
        a = sheet.number(f"{tens}*{factor(small)}", tens * small)
        b = sheet.number(f"{large - tens}*{factor(small)}", (large - tens) * small)
        return sheet.number(f"{a}+{factor(b)}", a + b)
    return sheet.number(f"{left}{operator}{factor(right)}", _apply(operator, left, right))
