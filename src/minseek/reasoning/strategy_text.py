"""Strategies as text: ``name:option=value,…``."""

from __future__ import annotations

import re
from typing import Any

from minseek.errors import InputError
from minseek.reasoning.strategies import STRATEGIES

_WORDS = {"true": True, "false": False, "none": None}


def parse_strategy_text(text: str) -> tuple[str, dict[str, Any]]:
    """Parse ``name[:option=value,…]`` as a name and its options; the number of thoughts is no such option.

    Raises
    ------
    InputError
        If there is no such strategy or option, or one is given twice.
    """
    name, _, rest = text.partition(":")
    if name not in STRATEGIES:
        raise InputError(f"unknown strategy {name!r}: choose {', '.join(STRATEGIES)}")
    known = [option for option in STRATEGIES[name].options() if option != "thoughts"]
    options: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        option, equals, value = part.partition("=")
        if not equals or option not in known:
            takes = f"option=value with {', '.join(known)}" if known else "no options"
            raise InputError(f"cannot read {part!r} in the strategy {text!r}: {name} takes {takes}")
        if option in options:
            raise InputError(f"the strategy {text!r} gives {option} twice: give it once")
        options[option] = _parse_value(value)
    return name, options


def _parse_value(value: str) -> Any:
    if re.fullmatch(r"-?\d{1,9}", value):
        return int(value)
    if re.fullmatch(r"-?\d{1,9}\.\d{1,15}", value):
        return float(value)
    return _WORDS.get(value, value)
