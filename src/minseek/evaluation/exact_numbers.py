"""Numbers that certainly differ, however small they are.

math-verify takes two numbers for equal if they differ by less than 1e-15 or so: 1/2004! and 1/2006!, 1/2^98 and 1/2^99.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_DIGITS = 30  # significant digits to which both numbers are computed
_DECIMAL_DIGITS = 3  # that a decimal fraction must share with the other number, beside math-verify's six places


def certainly_differ(a: Any, b: Any) -> bool:
    """Return True if two expressions of sympy differ by a number; False if they are equal or it is not known.

    Rational numbers are compared exactly, others by 30 significant digits, of which sympy guarantees each. Of a decimal
    fraction only as many digits count as an answer may be rounded to; percentages are left to math-verify.
    """
    from sympy import Float, UnevaluatedExpr

    try:
        if a.has(UnevaluatedExpr) or b.has(UnevaluatedExpr):
            return False
        if not (a.is_number and b.is_number):
            difference = (a - b).doit()  # such as of the two sides of an equation
            return bool(difference.is_Rational and difference != 0)
        a, b = a.doit(), b.doit()
        if a.is_Rational and b.is_Rational:
            return bool(a != b)
        digits = _DECIMAL_DIGITS if a.has(Float) or b.has(Float) else _DIGITS - 5
        a, b = a.evalf(_DIGITS, strict=True), b.evalf(_DIGITS, strict=True)
        return bool(abs(a - b) > max(abs(a), abs(b)) / 10**digits)
    except Exception:  # sympy raises all kinds for what it cannot compute: matrices, infinity, digits that cancel out
        return False


def exact(numbers_equal: Callable[..., bool]) -> Callable[..., bool]:
    """Refine math-verify's comparison of two numbers, which it also applies to members of sets, pairs and equations."""

    def equal(a: Any, b: Any, *precision: Any, **named: Any) -> bool:
        return numbers_equal(a, b, *precision, **named) and not certainly_differ(a, b)

    return equal
