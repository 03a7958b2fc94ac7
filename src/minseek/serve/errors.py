"""Errors in OpenAI's format: a status, and an envelope with message, type, param and code."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from minseek.errors import InputError
from minseek.protocol.fields import FieldError, preview
from minseek.protocol.validation import field_error

_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "body_too_large"}


class ApiError(Exception):
    """Error response to a request that is refused or has failed.

    Attributes
    ----------
    status : int
        Status of the response.
    param, code : str or None
        Name of the field; kind of error, for programs.
    headers : mapping
        Additional headers of the response.
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
        """Return the body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """Return the response, in ASCII because a field's name may hold half a surrogate pair."""
        body = json.dumps(self.envelope(), ensure_ascii=True).encode()
        return Response(body, self.status, self.headers, media_type="application/json")


FAILURE = ApiError(500, "the server failed to answer this request", code="internal_error")
"""Response to an internal error."""
_LOG = logging.getLogger("minseek.serve")


def report(error: Exception) -> None:
    """Log the traceback of an error without its message, which may quote a prompt."""
    _LOG.error("%s in\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))


async def on_api_error(request: Request, error: Exception) -> Response:
    """Answer an `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_input_error(request: Request, error: Exception) -> Response:
    """Answer an `InputError`."""
    param, code = getattr(error, "param", None), getattr(error, "code", "invalid_value")
    status = 404 if code == "model_not_found" else 400
    return ApiError(status, str(error), param=param, code=code).response()


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path, a method that a path does not have, or a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    message, code = f"{error.detail}: {request.method} {request.url.path[:100]}", _CODES.get(error.status_code)
    if error.status_code in (408, 413):
        message = error.detail
    elif error.status_code == 400:
        message, code = "the body cannot be read as JSON: send UTF-8 JSON that is not nested too deeply", "invalid_json"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def on_invalid_body(request: Request, error: Exception) -> Response:
    """Answer a body with wrong fields; the deepest first one is named."""
    assert isinstance(error, RequestValidationError)
    wrong = _body_error(error)
    return ApiError(400, str(wrong), param=wrong.param, code=wrong.code).response()


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer any other error."""
    return FAILURE.response()


HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ApiError: on_api_error,
    InputError: on_input_error,
    HTTPException: on_http_error,
    RequestValidationError: on_invalid_body,
    Exception: on_failure,
}


def _body_error(error: RequestValidationError) -> FieldError:
    """Describe in one sentence what is wrong with a body."""
    errors, body = error.errors(), error.body
    if errors[0]["type"] == "json_invalid":
        where = f"{errors[0]['ctx']['error']} at character {errors[0]['loc'][-1]}"
        return FieldError(f"the body is not JSON: {where}", code="invalid_json")
    if not isinstance(body, dict):
        found = "empty" if body is None else "of another Content-Type" if isinstance(body, bytes) else preview(body)
        return FieldError(f"the body must be a JSON object, of type application/json, not {found}", code="invalid_json")
    return field_error(errors, [item["loc"][1:] for item in errors], body)  # every location begins with "body"
