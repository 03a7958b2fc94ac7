"""Numbers of induced thoughts: type, order and spelling."""

from __future__ import annotations

Thoughts = int | None
"""Number of induced thoughts; None is as many as the limits allow."""
PAPER_THOUGHTS: tuple[Thoughts, ...] = (0, 2, 4, 6, 10, 20, 50, 100, None)
"""The numbers of thoughts in the paper (arXiv 2601.09855)."""


def thoughts_order(thoughts: Thoughts) -> float:
    """Sort key of numbers of thoughts, unbounded last."""
    return float("inf") if thoughts is None else thoughts


def format_thoughts(thoughts: Thoughts) -> int | str:
    """A number of thoughts as in files and on the command line."""
    return "unbounded" if thoughts is None else thoughts
