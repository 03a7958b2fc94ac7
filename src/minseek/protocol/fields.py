"""Errors that name a field of a request, and reading of JSON objects."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from minseek.errors import InputError

_PREVIEW = 60  # characters of a value in a message


class FieldError(InputError):
    """A request that is refused because of one field.

    Attributes
    ----------
    param : str or None
        Name of the field.
    code : str
        Kind of error, for programs.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


def parse_object(raw: bytes) -> dict[str, Any]:
    """Read a line as a JSON object.

    Raises
    ------
    FieldError
        If the line is not UTF-8, not JSON, or not an object.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise FieldError(f"the line is not UTF-8 text: byte {error.start} is wrong", code="invalid_json") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise FieldError(f"the line is not JSON: {error.msg} at character {error.pos}", code="invalid_json") from None
    except ValueError as error:  # a number of thousands of digits, NaN
        raise FieldError(f"the line is not JSON that can be read: {error}", code="invalid_json") from None
    return check_object("the line", value)


def check_object(name: str, value: Any, param: str | None = None) -> dict[str, Any]:
    """Return a value that must be a JSON object."""
    if not isinstance(value, dict):
        raise FieldError(f"{name} must be a JSON object, not {preview(value)}", param=param, code="invalid_json")
    return value


def require(fields: Mapping[str, Any], name: str, why: str) -> Any:
    """Return a field that must be there and not null."""
    if fields.get(name) is None:
        raise FieldError(f"the field {name!r} is missing: {why}", param=name, code="missing_field")
    return fields[name]


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse fields other than the known ones."""
    for name, value in fields.items():
        if name not in known:
            raise unsupported(name, value)


def unsupported(param: str, value: Any) -> FieldError:
    """Build the error of a field, or a value of it, that is not supported."""
    return FieldError(
        f"{preview(param)} with the value {preview(value)} is not supported: leave it out",
        param=param,
        code="unsupported_parameter",
    )


def preview(value: Any) -> str:
    """Shorten a value for an error message."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _PREVIEW else f"{text[:_PREVIEW]}…"


def parse_same(values: Mapping[str, Any]) -> Any:
    """Return the value of a field that goes by several names; None if none of them is given.

    Raises
    ------
    FieldError
        If two names have different values.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name}={preview(value)}" for name, value in given.items())
        raise FieldError(f"{listed} mean the same and differ: give one", param=list(given)[-1])
    return next(iter(given.values()), None)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
