"""Socket of the server, start and graceful shutdown."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import time

import uvicorn
from fastapi import FastAPI

from minseek.errors import InputError
from minseek.serve.service import Service

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_MAX_CONNECTIONS = 1000
_DRAIN_SECONDS = 5  # in which clients may read the end of their answers
_POLL_SECONDS = 0.05


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket to an address; clients cannot connect before `listen`.

    Raises
    ------
    InputError
        If there is no such address, or it is in use.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port must be between 0 and 65535, not {port}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise InputError(f"there is no host {host!r}: give an address of this machine as --host") from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _refused(error, host, port) from None
    return bound


def listen(bound: socket.socket, host: str, port: int) -> None:
    """Accept connections."""
    try:
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise _refused(error, host, port) from None


def _refused(error: OSError, host: str, port: int) -> InputError:
    why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound ({error.strerror})"
    return InputError(f"port {port} of {host} {why}: give another --port or --host")


def is_loopback(bound: socket.socket) -> bool:
    """Return True if only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


class Server(uvicorn.Server):
    """Runs an application and shuts it down gracefully.

    A stopping server refuses new requests (503) and finishes running ones; those that take longer than `grace` seconds
    end with an error, and a second Ctrl-C ends all of them at once.

    Parameters
    ----------
    app : FastAPI
        From `create_app`.
    grace : float
        Seconds that running requests may take when the server stops.
    """

    def __init__(self, app: FastAPI, grace: float = 30.0) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_DRAIN_SECONDS,
            )
        )
        self._service: Service = app.state.service
        self._grace = grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish running requests, then close; called by uvicorn."""
        engine_thread = self._service.engine_thread
        engine_thread.stop_accepting()
        until = time.monotonic() + self._grace
        while engine_thread.busy and time.monotonic() < until and not self.force_exit:
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.to_thread(engine_thread.end)
        await super().shutdown(sockets)
