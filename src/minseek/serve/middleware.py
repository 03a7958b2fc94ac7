"""What every request passes before the routes: the log, the host it names, its key, its size."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Collection

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
_LONGEST_PATH = 100  # characters in the log


class Guard:
    """Something before the application that may refuse a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer with why not."""
        refusal = self.refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def refusal(self, scope: Scope) -> ApiError | None:
        """Why it may not pass."""
        raise NotImplementedError


class HostCheck(Guard):
    """Lets requests pass that name the server as expected.

    A web page elsewhere can make its own name lead to this machine (DNS rebinding); its requests still carry that name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        super().__init__(app)
        self._hosts = {host.lower().strip("[]") for host in hosts}

    def refusal(self, scope: Scope) -> ApiError | None:
        host = Headers(scope=scope).get("host", "").lower()
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if name in self._hosts:
            return None
        return ApiError(403, "this server is not called by that name: see --allowed-host", code="host_not_allowed")


class ApiKeyCheck(Guard):
    """Lets requests pass that carry the key, or that need none."""

    def __init__(self, app: ASGIApp, key: str, free: Collection[str]) -> None:
        super().__init__(app)
        self._key, self._free = key.encode(), frozenset(free)

    def refusal(self, scope: Scope) -> ApiError | None:
        if scope["path"] in self._free:
            return None
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key):
            return None
        return ApiError(
            401,
            "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


class BodyLimit:
    """Ends requests whose body is longer than allowed, whether or not they say so beforehand."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it comes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        too_long = ApiError(413, f"the body is longer than {self._most} bytes: shorten it", code="body_too_large")
        if length.isdecimal() and int(length[:20]) > self._most:
            await too_long.response()(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most:
                raise HTTPException(413, str(too_long))
            return message

        await self.app(scope, counted, send)


class AccessLog:
    """Around everything: counts and logs requests, without their contents, and adds the headers of every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and note how it ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            report(error)
            if not status:
                await FAILURE.response()(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            path, spent = ascii(scope["path"][:_LONGEST_PATH])[1:-1], time.perf_counter() - began
            _LOG.info("%s %s %d %.0f ms", scope["method"], path, status, 1000 * spent)
