"""Parsing and formatting of sizes in bytes, and short forms of counts and texts."""

from __future__ import annotations

import re
from fractions import Fraction

from minseek.errors import InputError, check_type

_UNITS = {"": 1, "B": 1} | {
    prefix + ending: base**power
    for ending, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate(("K", "M", "G", "T"), start=1)
}
_BY_LOWER_CASE = {name.lower(): size for name, size in _UNITS.items()}


def parse_bytes(size: int | str) -> int:
    """Parse a size: an integer of bytes, or a string such as ``"192MB"`` (10^6) or ``"192MiB"`` (2^20).

    Raises
    ------
    InputError
        If the size cannot be parsed or is not positive.
    """
    given = size
    check_type("a size must be an integer of bytes or a string such as '192MB'", size, (int, str))
    if isinstance(size, str):
        match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]*)\s*", size)
        unit = _BY_LOWER_CASE.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InputError(
                f"cannot read the size {size!r}: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB"
            )
        size = int(Fraction(match[1]) * unit)
    if size <= 0:
        raise InputError(f"a size must be positive, not {given!r}")
    return size


def format_beginning(text: str, most: int = 72) -> str:
    """Quote a text, or the beginning of one of more characters than `most`."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def format_count(count: int, noun: str) -> str:
    """Format a number of things, such as ``"1 trial"`` or ``"2,000 trials"``."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"


def size_to_give(size: int) -> str:
    """Format the least size that a flag must be given, such as ``"79.9KB"``: of three digits, and never too small."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "KB")):
        if size >= 1000**power:
            step = max(1, 10 ** (len(str(size)) - 3))
            digits = Fraction(-(-size // step) * step, 1000**power)
            return f"{float(digits):.{max(0, 3 - len(str(int(digits))))}f}{unit}"
    return f"{size}B"


def format_bytes(size: int) -> str:
    """Format a size in decimal units with three digits, such as ``"16.1 MB"``."""
    value, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"
