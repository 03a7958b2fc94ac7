"""Middleware: access log, and checks of host, API key, body size and time."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minseek.serve.errors import FAILURE, ApiError, report
from minseek.serve.metrics import Metrics

_LOG = logging.getLogger("minseek.serve")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MAX_LOGGED_PATH = 100  # characters


class RequestCheck:
    """Base class of checks that may refuse a request before the application sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer with the error."""
        error = self.check(scope) if scope["type"] == "http" else None
        if error is None:
            await self.app(scope, receive, send)
        else:
            await error.response()(scope, receive, send)

    def check(self, scope: Scope) -> ApiError | None:
        """Return the error of a request that is refused."""
        raise NotImplementedError


class HostCheck(RequestCheck):
    """Refuses requests whose ``Host`` header does not name the server.

    The name of a foreign web page can resolve to this machine (DNS rebinding); its requests still carry that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        super().__init__(app)
        self._hosts = {host.lower().strip("[]") for host in hosts}

    def check(self, scope: Scope) -> ApiError | None:
        host = Headers(scope=scope).get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if name in self._hosts:
            return None
        return ApiError(403, "this server is not called by that name: see --allowed-host", code="host_not_allowed")


class ApiKeyCheck(RequestCheck):
    """Refuses requests without the key of their path.

    Parameters
    ----------
    key : str or None
        Key of all paths that have none of their own; None requires none there.
    own : mapping
        Keys of single paths; None requires none there.
    """

    def __init__(self, app: ASGIApp, key: str | None, own: Mapping[str, str | None]) -> None:
        super().__init__(app)
        self._key, self._own = key, dict(own)

    def check(self, scope: Scope) -> ApiError | None:
        key = self._own.get(scope["path"], self._key)
        if key is None:
            return None
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode()):
            return None
        return ApiError(
            401,
            "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class BodyLimit:
    """Ends requests whose body is too long, with or without a Content-Length, or takes too long to arrive.

    Parameters
    ----------
    max_bytes : int
        Maximum size of a body.
    seconds : float
        Time from the end of a request's headers in which the whole body must arrive.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float) -> None:
        self.app, self._max_bytes, self._seconds = app, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of the body as they arrive."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        too_long = ApiError(413, f"the body is longer than {self._max_bytes} bytes: shorten it", code="body_too_large")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            await too_long.response()(scope, receive, send)
            return
        received, complete, until = 0, False, time.monotonic() + self._seconds

        async def counted() -> Message:
            nonlocal received, complete
            try:
                left = None if complete else max(0.0, until - time.monotonic())
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self._seconds:g} seconds", headers={"Connection": "close"}
                ) from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, str(too_long))
            return message

        await self.app(scope, counted, send)


class AccessLog:
    """Counts and logs all requests, without their contents, and adds headers to every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and log its outcome."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def add_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await self.app(scope, receive, add_headers)
        except Exception as error:
            report(error)
            if not status:
                await FAILURE.response()(scope, receive, add_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            path, spent = ascii(scope["path"][:_MAX_LOGGED_PATH])[1:-1], time.perf_counter() - started
            level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
            fields = {"method": scope["method"], "path": path, "status": status, "ms": round(1000 * spent)}
            _LOG.log(level, "%s %s %d %d ms", *fields.values(), extra={"fields": fields})
