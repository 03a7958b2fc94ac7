"""Fields of a JSON object that somebody else wrote: read with their types, or refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from minseek.decode import Sampling
from minseek.errors import InputError

LIMIT_NAMES = ("max_new_tokens", "max_completion_tokens", "max_tokens")
"""Names of one and the same limit: ours, OpenAI's, and OpenAI's former one."""
SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p", "seed")
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "echo": (False,),
    "store": (False,),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""What clients write without wanting anything by it; other values of these fields are refused."""
_WITHOUT_EFFECT = ("metadata", "user")  # on what is written, wherever the request is sent
_INTEGERS = ("top_k", "seed")
_SHOWN = 60  # characters of a value in a message


class FieldError(InputError):
    """A field that makes a request impossible to honour.

    Attributes
    ----------
    param : str or None
        The field's name.
    code : str
        What kind of problem it is, for programs.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


def parse_object(raw: bytes) -> dict[str, Any]:
    """The object that a line holds, without its fields that are null: those ask for nothing."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FieldError(f"the line is not UTF-8 text: byte {error.start} is wrong", code="invalid_json") from None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FieldError(f"the line is not JSON: {error.msg} at character {error.pos}", code="invalid_json") from None
    except ValueError as error:  # a number of thousands of digits, NaN
        raise FieldError(f"the line is not JSON that can be read: {error}", code="invalid_json") from None
    return as_object("the line", value)


def as_object(name: str, value: Any, param: str | None = None) -> dict[str, Any]:
    """A value that must be an object, without its fields that are null."""
    if not isinstance(value, dict):
        raise FieldError(f"{name} must be a JSON object, not {shown(value)}", param=param, code="invalid_json")
    return {key: field for key, field in value.items() if field is not None}


def shown(value: Any) -> str:
    """A value for an error message, however large it is."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def needed(fields: Mapping[str, Any], name: str, why: str) -> Any:
    """A field that must be there."""
    if name not in fields:
        raise FieldError(f"the field {name!r} is missing: {why}", param=name, code="missing_field")
    return fields[name]


def parse_str(name: str, value: Any) -> str:
    """A value that must be text."""
    if not isinstance(value, str):
        raise FieldError(f"{name} must be a text, not {shown(value)}", param=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(f"{name} is not Unicode text: it has half a surrogate pair", param=name) from None
    return value


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], prefix: str = "") -> None:
    """Refuse fields that are not known, unless their value asks for nothing."""
    for name, value in fields.items():
        if name in known or name in _WITHOUT_EFFECT:
            continue
        if any(type(value) is type(neutral) and value == neutral for neutral in _NEUTRAL.get(name, ())):
            continue
        param = prefix + name
        raise FieldError(
            f"{shown(param)} with the value {shown(value)} is not supported: leave it out",
            param=param,
            code="unsupported_parameter",
        )


def sampling_of(fields: Mapping[str, Any], default: Sampling) -> Sampling:
    """The default with what a request asks for."""
    for name in SAMPLING_NAMES:
        if name not in fields:
            continue
        value = fields[name]
        kinds = int if name in _INTEGERS else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            what = "an integer" if name in _INTEGERS else "a number"
            raise FieldError(f"{name} must be {what}, not {shown(value)}", param=name)
        try:
            changed: dict[str, Any] = {name: value if name in _INTEGERS else float(value)}
            default = dataclasses.replace(default, **changed)  # one by one: an error is this field's
        except OverflowError:
            raise FieldError(f"{name} is too large: {shown(value)}", param=name) from None
        except InputError as error:
            raise FieldError(str(error), param=name) from None
    return default


def parse_count(name: str, value: Any) -> int:
    """A value that must be a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"{name} must be an integer, not {shown(value)}", param=name)
    if value < 1:
        raise FieldError(f"{name} must be 1 or more, not {shown(value)}", param=name)
    return value


def parse_max_tokens(fields: Mapping[str, Any]) -> int | None:
    """The tokens to write at most, under whichever of their names; None where there is none of them."""
    given = {name: parse_count(name, fields[name]) for name in LIMIT_NAMES if name in fields}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name}={shown(value)}" for name, value in given.items())
        raise FieldError(f"{listed} mean the same and differ: give one", param=list(given)[-1])
    return next(iter(given.values()), None)


def parse_stop(fields: Mapping[str, Any], default: tuple[str, ...]) -> tuple[str, ...]:
    """The texts that end a completion: one, or a list."""
    if "stop" not in fields:
        return default
    value = fields["stop"]
    stops = tuple(parse_str("stop", stop) for stop in (value if isinstance(value, list) else [value]))
    if "" in stops:
        raise FieldError("stop must not be an empty text: leave it out", param="stop")
    return stops


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
