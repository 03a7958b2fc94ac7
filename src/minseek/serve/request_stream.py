"""Choices of a request from submission to their end, as a stream or a complete response."""

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
from minseek.reasoning import AnswerToken, Event, Finished, ThoughtToken
from minseek.serve.engine_thread import QueuedJob
from minseek.serve.errors import FAILURE, ApiError, report
from minseek.serve.event_channel import EventChannel, StreamEnd
from minseek.serve.service import Service

_DISCONNECTED = 499  # as in nginx: the client has disconnected
_DONE = b"data: [DONE]\n\n"


class RequestStream:
    """Submitted choices of one request.

    Parameters
    ----------
    jobs : sequence of Job
        One job for each choice; it puts its events into the channel.
    channel : EventChannel
        Channel of the request.
    route : str
        Label of the metrics.

    Raises
    ------
    ApiError
        If the engine thread does not accept the jobs.
    """

    def __init__(self, service: Service, jobs: Sequence[Job], channel: EventChannel, route: str) -> None:
        self._thread, self._metrics, self._route = service.engine_thread, service.metrics, route
        self._channel = channel
        self._jobs = [QueuedJob(job, channel, choice) for choice, job in enumerate(jobs)]
        self._left = len(self._jobs)
        self._started = time.perf_counter()
        self._thread.submit(self._jobs)

    async def events(self) -> AsyncGenerator[Mapping[int, list[Event]]]:
        """Yield the events that have arrived, by choice.

        Raises
        ------
        ApiError
            If one of the choices failed.
        """
        first_token_seen = False
        while self._left:
            events: dict[int, list[Event]] = {}
            failure: Exception | None = None
            for choice, item in await self._channel.take():
                if isinstance(item, StreamEnd):
                    self._left -= 1
                    failure = failure or item.error
                    continue
                events.setdefault(choice, []).append(item)
                if not first_token_seen and isinstance(item, (ThoughtToken, AnswerToken)):
                    first_token_seen = True
                    self._metrics.first_token_seconds.labels(self._route).observe(time.perf_counter() - self._started)
                if isinstance(item, Finished):
                    self._metrics.finished(item.result)
            if events:
                yield events
            if failure is not None:
                raise failure
        self._metrics.request_seconds.labels(self._route).observe(time.perf_counter() - self._started)

    def close(self) -> None:
        """Release the slots of the choices that have not ended."""
        if self._left:
            self._thread.cancel(self._jobs)


async def cancel_on_disconnect(
    request: Request, stream: RequestStream, answer: Coroutine[Any, Any, Response]
) -> Response:
    """Return the response; if the client disconnects first, release its slots at once."""
    work = asyncio.ensure_future(answer)
    disconnect = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else Response(status_code=_DISCONNECTED)
    finally:
        work.cancel()
        disconnect.cancel()
        stream.close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Chunks as server-sent events; the slots are released however the stream ends.

    An error after the start of the stream is sent as its last event.
    """

    media_type = "text/event-stream"

    def __init__(self, stream: RequestStream, chunks: AsyncIterator[Mapping[str, Any]]) -> None:
        super().__init__(_events(chunks), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the chunks; called by the web framework."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


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
