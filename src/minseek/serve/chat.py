"""``POST /v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from minseek.protocol.chat_stream import ChatStream, Delta
from minseek.protocol.choices import run_choice, run_usage
from minseek.protocol.jobs import make_thinking_job
from minseek.protocol.logprobs import chat_logprobs
from minseek.protocol.requests import ChatRequest
from minseek.protocol.responses import ChatLogprobs, ChatResponse
from minseek.protocol.sampling import parse_sampling
from minseek.protocol.thinking import parse_thinking
from minseek.protocol.validation import check_body
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.event_channel import EventChannel
from minseek.serve.request_stream import EventStream, RequestStream, cancel_on_disconnect
from minseek.serve.service import Service

ROUTE = "/v1/chat/completions"


async def chat(request: Request, service: Service, body: ChatRequest) -> Response:
    """Answer a chat with a complete response or a stream."""
    service.check_model(body.model)
    check_body(body)
    service.check_choices(body.choices, "n")
    channel = EventChannel()
    jobs = await service.prepare(lambda: _make_jobs(service, body, channel))
    service.log_texts(ROUTE, [message.text for message in body.messages])
    stream = RequestStream(service, jobs, channel, ROUTE)
    choices = [ChatStream(service.model.thinking, service.token_bytes) for _ in jobs]
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if body.stream:
        return EventStream(stream, _chunks(service, body, stream, choices, head))
    return await cancel_on_disconnect(request, stream, _complete_response(service, body, stream, choices, head))


def _make_jobs(service: Service, body: ChatRequest, channel: EventChannel) -> list[ThinkingJob]:
    """Make a job for each choice."""
    strategy, limits = parse_thinking(body, service.defaults)
    return [
        make_thinking_job(
            service.model,
            service.plan,
            body,
            strategy=strategy,
            limits=limits,
            sampling=parse_sampling(service.model, body, service.sampling, choice),
            stop=body.stop_texts or (),
            on_event=partial(channel.put, choice),
        )
        for choice in range(body.choices)
    ]


async def _complete_response(
    service: Service, body: ChatRequest, stream: RequestStream, choices: list[ChatStream], head: dict[str, Any]
) -> Response:
    """Return all choices once they are complete."""
    deltas: list[list[Delta]] = [[] for _ in choices]
    async for events_by_choice in stream.events():
        for index, events in events_by_choice.items():
            deltas[index].extend(choices[index].deltas(events))
    made = [
        run_choice(service.model, index, choice, deltas[index], logprobs=bool(body.logprobs))
        for index, choice in enumerate(choices)
    ]
    response = ChatResponse(**head, choices=made, usage=run_usage(choices), minseek=made[0].minseek)
    return Response(response.model_dump_json(), media_type="application/json")


async def _chunks(
    service: Service, body: ChatRequest, stream: RequestStream, choices: list[ChatStream], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of the stream."""
    head = {**head, "object": "chat.completion.chunk"}
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    started: set[int] = set()
    async with aclosing(stream.events()) as batches:
        async for events_by_choice in batches:
            for index, events in events_by_choice.items():
                for delta in choices[index].deltas(events):
                    chunk = _chunk(service, body, index, choices[index], delta, first=index not in started)
                    started.add(index)
                    yield {**head, **chunk, **({"usage": None} if with_usage else {})}
    if with_usage:
        yield {**head, "choices": [], "usage": run_usage(choices).model_dump()}


def _chunk(
    service: Service, body: ChatRequest, index: int, stream: ChatStream, delta: Delta, *, first: bool
) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if delta.kind == "reasoning":
        fields |= {"reasoning_content": delta.text, "reasoning": delta.text}
    elif delta.kind == "content":
        fields["content"] = delta.text
    choice: dict[str, Any] = {"index": index, "delta": fields, "logprobs": None, "finish_reason": None}
    if body.logprobs and delta.logprobs:
        choice["logprobs"] = ChatLogprobs(content=chat_logprobs(service.model, delta.logprobs)).model_dump()
    if delta.note["type"] == "finished":
        choice["finish_reason"] = stream.finish_reason
    return {"choices": [choice], "minseek": delta.note}
