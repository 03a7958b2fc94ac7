"""Errors as OpenAI's clients expect them: a status, and an envelope with message, type, param and code."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from minseek.errors import InputError
from minseek.protocol.fields import FieldError, shown
from minseek.serve.bodies import NEUTRAL

_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


class ApiError(Exception):
    """A request that is refused or has failed.

    Attributes
    ----------
    status : int
        Of the response.
    param, code : str or None
        The field it is about; what kind of problem it is, for programs.
    headers : mapping
        Of the response, besides the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def envelope(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The response; half a surrogate pair in a field's name is no reason to fail, so it is ASCII."""
        body = json.dumps(self.envelope(), ensure_ascii=True).encode()
        return Response(body, self.status, self.headers, media_type="application/json")


FAILURE = ApiError(500, "the server failed to answer this request", code="internal_error")
"""What a client learns of an error that is not its own."""
_LOG = logging.getLogger("minseek.serve")


def report(error: Exception) -> None:
    """Log where an error happened, without its message: that may quote a prompt."""
    _LOG.error("%s in\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


async def on_api_error(request: Request, error: Exception) -> Response:
    """An error of ours."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_input_error(request: Request, error: Exception) -> Response:
    """A request that cannot be honoured."""
    param, code = getattr(error, "param", None), getattr(error, "code", "invalid_value")
    status = 404 if code == "model_not_found" else 400
    return ApiError(status, str(error), param=param, code=code).response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """An unknown path, a method that a path does not have, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    message, code = f"{error.detail}: {request.method} {request.url.path[:100]}", _CODES.get(error.status_code)
    if error.status_code == 413:
        message = error.detail
    elif error.status_code == 400:
        message, code = "the body cannot be read as JSON: send UTF-8 JSON that is not nested too deeply", "invalid_json"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def on_invalid_body(request: Request, error: Exception) -> Response:
    """A body whose fields are wrong: the first of them is named."""
    assert isinstance(error, RequestValidationError)
    wrong = field_error(error.errors(), error.body)
    return ApiError(400, str(wrong), param=wrong.param, code=wrong.code).response()


async def on_failure(request: Request, error: Exception) -> Response:
    """Anything else."""
    return FAILURE.response()


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ApiError: on_api_error,
    InputError: on_input_error,
    HTTPException: on_http_error,
    RequestValidationError: on_invalid_body,
    Exception: on_failure,
}


def field_error(errors: Sequence[Mapping[str, Any]], body: Any) -> FieldError:
    """Of pydantic's list of what is wrong with a body, the deepest first thing, in one sentence."""
    if errors[0]["type"] == "json_invalid":
        where = f"{errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
        return FieldError(f"the body is not JSON: {where}", code="invalid_json")
    if not isinstance(body, dict):
        what = "empty" if body is None else "of another Content-Type" if isinstance(body, bytes) else shown(body)
        return FieldError(f"the body must be a JSON object, of type application/json, not {what}", code="invalid_json")
    paths = [_path(error["loc"][1:], body) for error in errors]
    deepest = max(range(len(errors)), key=lambda at: (len(paths[at]), -at))
    error, path = errors[deepest], paths[deepest]
    if not path:
        return FieldError(f"the body must be {_wanted(error['msg'])}", code="invalid_json")
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    if error["type"] == "missing":
        return FieldError(f"the field {param!r} is missing: give it", param=param, code="missing_field")
    given = error["input"]
    if error["type"] == "extra_forbidden" or path[0] in NEUTRAL:
        return FieldError(
            f"{shown(param)} with the value {shown(given)} is not supported: leave it out",
            param=param,
            code="unsupported_parameter",
        )
    if error["type"] in ("too_short", "too_long"):
        return FieldError(f"{param} must be {_wanted(error['msg'])}", param=param)
    wanted = dict.fromkeys(_wanted(e["msg"]) for e, p in zip(errors, paths, strict=True) if p == path)
    return FieldError(f"{param} must be {' or '.join(wanted)}, not {shown(given)}", param=param)


def _wanted(message: str) -> str:
    """What pydantic wants instead, from its message: "Input should be a valid string" and the like."""
    for start in ("Input should be ", "String should be ", "Value should be "):
        if message.startswith(start):
            return message.removeprefix(start)
    subject, should, rest = message.partition(" should have ")
    return f"a {subject.lower()} with {rest.replace(' after validation', '')}" if should else f"valid ({message})"


def _path(loc: Sequence[int | str], body: Any) -> tuple[int | str, ...]:
    """The part of pydantic's location that is in the body: names of the alternatives that it tried are not."""
    path: list[int | str] = []
    for at, part in enumerate(loc):
        last = at == len(loc) - 1
        if isinstance(body, dict) and isinstance(part, str) and (part in body or last):
            path.append(part)
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            path.append(part)
            body = body[part]
    return tuple(path)
