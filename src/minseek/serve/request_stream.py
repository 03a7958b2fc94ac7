"""A request's choices from when they are taken to when they have ended: as a stream, or as a whole."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from minseek.engine import Job
from minseek.protocol.fields import FieldError
from minseek.reasoning import AnswerToken, Event, Finished, ThoughtToken
from minseek.serve.bodies import Shared
from minseek.serve.engine_thread import QueuedJob
from minseek.serve.errors import FAILURE, ApiError, report
from minseek.serve.event_channel import EventChannel, StreamEnd
from minseek.serve.service import Service

_GONE = 499  # as nginx reports a client that has gone; nobody reads it
_DONE = b"data: [DONE]\n\n"


class RequestStream:
    """The orders of one request.

    Parameters
    ----------
    jobs : sequence of Job
        One for each choice; they put what happens into the mailbox.
    route : str
        For the metrics.

    Raises
    ------
    ApiError
        If the worker does not take them.
    """

    def __init__(self, service: Service, jobs: Sequence[Job], mailbox: EventChannel, route: str) -> None:
        self._worker, self._metrics, self._mailbox, self._route = service.worker, service.metrics, mailbox, route
        self._orders = [QueuedJob(job, mailbox, choice) for choice, job in enumerate(jobs)]
        self._left = len(self._orders)
        self._began = time.perf_counter()
        self._worker.submit(self._orders)

    async def events(self) -> AsyncGenerator[Mapping[int, list[Event]]]:
        """What happens, by choice, as much as there is at a time.

        Raises
        ------
        ApiError
            If one of the choices failed.
        """
        told = False
        while self._left:
            events: dict[int, list[Event]] = {}
            failure: Exception | None = None
            for choice, item in await self._mailbox.take():
                if isinstance(item, StreamEnd):
                    self._left -= 1
                    failure = failure or item.error
                    continue
                events.setdefault(choice, []).append(item)
                if not told and isinstance(item, (ThoughtToken, AnswerToken)):
                    told = True
                    self._metrics.first_token_seconds.labels(self._route).observe(time.perf_counter() - self._began)
                if isinstance(item, Finished):
                    self._metrics.finished(item.result)
            if events:
                yield events
            if failure is not None:
                raise failure
        self._metrics.request_seconds.labels(self._route).observe(time.perf_counter() - self._began)

    def close(self) -> None:
        """Free the slots of what has not ended."""
        if self._left:
            self._worker.cancel(self._orders)


def check_stream_options(body: Shared) -> None:
    """Refuse options of a stream where there is none."""
    if body.stream_options is not None and not body.stream:
        raise FieldError('stream_options has no effect without "stream": true', param="stream_options")


async def cancel_on_disconnect(
    request: Request, exchange: RequestStream, answer: Coroutine[Any, Any, Response]
) -> Response:
    """The response, unless the client goes before it is there: then its slots are free at once."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=_GONE)
    finally:
        work.cancel()
        gone.cancel()
        exchange.close()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Chunks as server-sent events; however it ends, the exchange's slots are free then.

    An error once the stream has begun comes as its last event.
    """

    media_type = "text/event-stream"

    def __init__(self, exchange: RequestStream, chunks: AsyncIterator[Mapping[str, Any]]) -> None:
        super().__init__(_events(chunks), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; called by the web framework."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.close()


async def _events(chunks: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _event(chunk)
        yield _DONE
    except ApiError as error:
        yield _event(error.envelope())
    except Exception as error:
        report(error)
        yield _event(FAILURE.envelope())


def _event(data: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
