"""``POST /v1/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from minseek.decode import TokenLogprob
from minseek.engine import Generation
from minseek.engine.generation import OnToken
from minseek.protocol.choices import completion_choice
from minseek.protocol.completion_stream import CompletionStream
from minseek.protocol.fields import FieldError
from minseek.protocol.jobs import encode_prompts
from minseek.protocol.logprobs import completion_logprobs
from minseek.protocol.requests import CompletionRequest
from minseek.protocol.responses import CompletionResponse, Usage
from minseek.protocol.sampling import parse_sampling
from minseek.protocol.validation import check_body
from minseek.reasoning import AnswerToken, Event
from minseek.serve.event_channel import EventChannel
from minseek.serve.request_stream import EventStream, RequestStream, cancel_on_disconnect
from minseek.serve.service import Service

ROUTE = "/v1/completions"
_DEFAULT_MAX_TOKENS = 16  # OpenAI's default


async def complete(request: Request, service: Service, body: CompletionRequest) -> Response:
    """Continue texts with a complete response or a stream."""
    service.check_model(body.model)
    check_body(body)
    service.check_choices(len(body.prompts) * body.choices, "prompt" if len(body.prompts) > 1 else "n")
    channel = EventChannel()
    jobs = await service.prepare(lambda: _make_jobs(service, body, channel))
    service.log_texts(ROUTE, [prompt for prompt in body.prompts if isinstance(prompt, str)])
    stream = RequestStream(service, jobs, channel, ROUTE)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if body.stream:
        return EventStream(stream, _chunks(service, body, stream, jobs, head))
    return await cancel_on_disconnect(request, stream, _complete_response(service, body, stream, jobs, head))


def _make_jobs(service: Service, body: CompletionRequest, channel: EventChannel) -> list[Generation]:
    """Make a job for each choice of each prompt, in OpenAI's order: all choices of the first prompt come first."""
    jobs: list[Generation] = []
    for tokens in encode_prompts(service.model, body):
        _check_length(service, tokens)
        limit = min(
            body.limit or _DEFAULT_MAX_TOKENS,
            service.settings.max_completion_tokens,
            service.plan.slot.capacity - len(tokens),
        )
        for choice in range(body.choices):
            jobs.append(
                Generation(
                    service.model,
                    tokens,
                    max_new_tokens=limit,
                    sampling=parse_sampling(service.model, body, service.sampling, choice),
                    stop=body.stop_texts or (),
                    evicts=False,
                    on_token=_send_to(channel, len(jobs)),
                    logprobs=body.num_logprobs,
                    is_continuation=True,
                )
            )
    return jobs


def _send_to(channel: EventChannel, choice: int) -> OnToken:
    return lambda token, text, logprob: channel.put(choice, AnswerToken(token, text, 0, logprob))


def _check_length(service: Service, tokens: Sequence[int]) -> None:
    """Refuse a prompt that leaves no free token in a slot."""
    slot = service.plan.slot.capacity
    if len(tokens) >= slot:
        raise FieldError(
            f"the prompt takes {len(tokens)} tokens, and a slot holds {slot}, of which the completion needs some: "
            "shorten it",
            param="prompt",
            code="context_length_exceeded",
        )


def _push(stream: CompletionStream, events: Sequence[Event]) -> tuple[str, list[TokenLogprob]]:
    """Add events to a stream; return their text and the tokens that are certain now."""
    text, certain = "", list[TokenLogprob]()
    for event in events:
        assert isinstance(event, AnswerToken), "plain generation sends no other event"
        certain += stream.push(event.text, event.logprob)
        text += event.text
    return text, certain


async def _complete_response(
    service: Service, body: CompletionRequest, stream: RequestStream, jobs: list[Generation], head: dict[str, Any]
) -> Response:
    """Return all choices once they are complete."""
    streams = [CompletionStream() for _ in jobs]
    async for events_by_choice in stream.events():
        for index, events in events_by_choice.items():
            _push(streams[index], events)
    for completion, job in zip(streams, jobs, strict=True):
        completion.finish(stopped=job.finish_reason == "stop")
    choices = [
        completion_choice(
            service.model,
            index,
            text=completion.text,
            finish_reason=job.finish_reason,
            logprobs=None if body.num_logprobs is None else completion.logprobs,
        )
        for index, (completion, job) in enumerate(zip(streams, jobs, strict=True))
    ]
    response = CompletionResponse(**head, choices=choices, usage=_usage(body, jobs))
    return Response(response.model_dump_json(), media_type="application/json")


def _usage(body: CompletionRequest, jobs: list[Generation]) -> Usage:
    return Usage.of(sum(len(job.prompt) for job in jobs[:: body.choices]), sum(len(job.tokens) for job in jobs))


async def _chunks(
    service: Service, body: CompletionRequest, stream: RequestStream, jobs: list[Generation], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Yield the chunks of the stream; the last one of each choice has its finish reason."""
    head = {**head, "object": "text_completion"}
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None
    streams = [CompletionStream() for _ in jobs]

    def chunk(index: int, text: str, certain: list[TokenLogprob], offset: int, reason: str | None) -> dict[str, Any]:
        logprobs = None
        if body.num_logprobs is not None:
            logprobs = completion_logprobs(service.model, certain, offset).model_dump()
        return {**head, "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}]}

    async with aclosing(stream.events()) as batches:
        async for events_by_choice in batches:
            for index, events in events_by_choice.items():
                offset = streams[index].offset
                text, certain = _push(streams[index], events)
                if text:
                    yield chunk(index, text, certain, offset, None)
    for index, job in enumerate(jobs):
        offset = streams[index].offset
        yield chunk(index, "", streams[index].finish(stopped=job.finish_reason == "stop"), offset, job.finish_reason)
    if with_usage:
        yield {**head, "choices": [], "usage": _usage(body, jobs).model_dump()}
