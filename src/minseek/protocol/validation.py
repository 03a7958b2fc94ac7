"""Checks of request bodies beyond the types of their fields, and errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import ValidationError

from minseek.errors import InputError
from minseek.models.chat.prompts import as_messages
from minseek.protocol.fields import FieldError, preview, unsupported
from minseek.protocol.requests import NEUTRAL_FIELDS, ChatRequest, CompletionRequest, Shared
from minseek.protocol.thinking import parse_effort

B = TypeVar("B", ChatRequest, CompletionRequest)


def parse_body(kind: type[B], fields: Mapping[str, Any]) -> B:
    """Read a request body.

    Raises
    ------
    FieldError
        If a field is missing, unknown or wrong, or fields contradict each other.
    """
    try:
        body = kind.model_validate(fields)
    except ValidationError as error:
        raise field_error(error.errors(), [e["loc"] for e in error.errors()], fields) from None
    check_body(body)
    return body


def check_body(body: ChatRequest | CompletionRequest) -> None:
    """Check rules that the types of the fields cannot express.

    Raises
    ------
    FieldError
        If a field has no effect, or fields contradict each other.
    """
    _check_shared(body)
    if isinstance(body, ChatRequest):
        _check_chat(body)
    elif not body.prompts:
        raise FieldError("prompt is an empty list: there is nothing to continue", param="prompt", code="empty_prompt")
    elif not all(body.prompts):
        raise FieldError("the prompt is empty: there is nothing to continue", param="prompt", code="empty_prompt")


def _check_shared(body: Shared) -> None:
    if body.stream_options is not None and not body.stream:
        raise FieldError('stream_options has no effect without "stream": true', param="stream_options")
    _ = body.limit


def _check_chat(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError('top_logprobs has no effect without "logprobs": true', param="top_logprobs")
    messages = body.conversation
    try:
        as_messages(messages)
    except InputError as error:
        code = "invalid_value" if messages[-1]["content"].strip() else "empty_prompt"
        raise FieldError(str(error), param=f"messages[{len(messages) - 1}]", code=code) from None
    parse_effort(body)


def public_name(name: str) -> str:
    """Return the name of a loaded model without the directory that it was loaded from."""
    return Path(name).name if Path(name).exists() else name


def check_model_name(requested: str | None, loaded: str) -> None:
    """Refuse a request for a model other than the loaded one.

    A model may be named as it was loaded, or by its last part, with or without ".gguf".

    Raises
    ------
    FieldError
        With the code ``model_not_found``.
    """
    name = PurePath(loaded).name
    if requested is None or requested == loaded or PurePath(requested).name in (name, name.removesuffix(".gguf")):
        return
    raise FieldError(
        f"there is no model {preview(requested)} here: {public_name(loaded)!r} is the one that is loaded",
        param="model",
        code="model_not_found",
    )


def field_error(errors: Sequence[Mapping[str, Any]], locations: Sequence[Sequence[int | str]], body: Any) -> FieldError:
    """Describe pydantic's errors in one sentence: the first of those that are deepest in the body."""
    missing = [error["type"] == "missing" for error in errors]
    paths = [_path(location, body, absent) for location, absent in zip(locations, missing, strict=True)]
    deepest = max(range(len(errors)), key=lambda index: (len(paths[index]), -index))
    error, path = errors[deepest], paths[deepest]
    if not path:
        return FieldError(f"the body must be {_expected(error)}", code="invalid_json")
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    if error["type"] == "missing":
        return FieldError(f"the field {param!r} is missing: give it", param=param, code="missing_field")
    value = error["input"]
    if error["type"] == "extra_forbidden" or path[0] in NEUTRAL_FIELDS:
        return unsupported(param, value)
    if error["type"] in ("too_short", "too_long"):
        return FieldError(f"{param} must be {_expected(error)}", param=param)
    expected = dict.fromkeys(_expected(e) for e, p in zip(errors, paths, strict=True) if p == path)
    return FieldError(f"{param} must be {' or '.join(expected)}, not {preview(value)}", param=param)


def _expected(error: Mapping[str, Any]) -> str:
    """Extract the expectation from pydantic's message, such as "Input should be a valid string"."""
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a JSON object"
    message: str = error["msg"]
    for start in ("Input should be ", "String should be ", "Value should be "):
        if message.startswith(start):
            return message.removeprefix(start)
    subject, should, rest = message.partition(" should have ")
    return f"a {subject.lower()} with {rest.replace(' after validation', '')}" if should else f"valid ({message})"


def _path(location: Sequence[int | str], body: Any, absent: bool) -> tuple[int | str, ...]:
    """Reduce pydantic's location to the part that is in the body, without names of union members.

    With `absent`, its last part is a field that is missing.
    """
    path: list[int | str] = []
    for index, part in enumerate(location):
        is_missing = absent and index == len(location) - 1
        if isinstance(body, dict) and isinstance(part, str) and (part in body or is_missing):
            path.append(part)
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            path.append(part)
            body = body[part]
    return tuple(path)
