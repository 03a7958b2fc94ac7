"""Requests that other servers take for another one: HEAD for GET, and a path that ends with a slash."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class EquivalentRequests:
    """Answers HEAD as GET without the body (RFC 9110, 9.1 and 9.3.2), and ignores a slash at the end of a path.

    A redirect would cost clients a second request, and some of them do not repeat a POST.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the equivalent request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        changed, is_head = dict(scope), scope["method"] == "HEAD"
        path = scope["path"].rstrip("/") or "/"
        changed |= {"path": path, "method": "GET" if is_head else scope["method"]}

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        try:
            await self.app(changed, receive, send_head if is_head else send)
        finally:
            if "route" in changed:
                scope["route"] = changed["route"]  # for the access log and its metrics
