"""``POST /v1/completions``: texts that are continued as they stand."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import Response

from minseek.decode import TokenLogprob
from minseek.engine import Generation
from minseek.errors import InputError
from minseek.protocol.fields import FieldError
from minseek.reasoning import AnswerToken, Event
from minseek.serve.bodies import CompletionRequest
from minseek.serve.event_channel import EventChannel
from minseek.serve.replies import CompletionChoice, CompletionResponse, FinishReason, Usage
from minseek.serve.request_stream import EventStream, RequestStream, cancel_on_disconnect, check_stream_options
from minseek.serve.sampling import sampling_of
from minseek.serve.service import Service
from minseek.serve.tokens import completion_logprobs

ROUTE = "/v1/completions"
_NEW_TOKENS = 16  # as in OpenAI's API, where a request does not say


class CompletionStream:
    """The text of one choice as it comes, and the tokens whose text is certain."""

    def __init__(self) -> None:
        self.text = ""
        self.logprobs: list[TokenLogprob] = []
        self._uncertain: list[TokenLogprob] = []

    def take(self, events: Sequence[Event]) -> tuple[str, list[TokenLogprob]]:
        """What came: text and its tokens. Tokens of a stop string never become certain."""
        text, certain = "", list[TokenLogprob]()
        for event in events:
            assert isinstance(event, AnswerToken), "plain generation tells nothing else"
            if event.logprob is not None:
                self._uncertain.append(event.logprob)
            if event.text:
                certain += self._uncertain
                self._uncertain = []
            text += event.text
        self.text += text
        self.logprobs += certain
        return text, certain


async def complete(request: Request, service: Service, body: CompletionRequest) -> Response:
    """Continue the prompts, as a whole or as a stream."""
    service.check_model(body.model)
    check_stream_options(body)
    prompts = _prompts(body)
    service.check_choices(len(prompts) * body.choices, "prompt" if len(prompts) > 1 else "n")
    mailbox = EventChannel()
    jobs = await service.prepare(lambda: _jobs(service, body, prompts, mailbox))
    service.log_texts(ROUTE, [prompt for prompt in prompts if isinstance(prompt, str)])
    exchange = RequestStream(service, jobs, mailbox, ROUTE)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if body.stream:
        return EventStream(exchange, _chunks(service, body, exchange, jobs, head))
    return await cancel_on_disconnect(request, exchange, _whole(service, body, exchange, jobs, head))


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [one for one in prompt if not isinstance(one, int)]


def _jobs(
    service: Service, body: CompletionRequest, prompts: Sequence[str | Sequence[int]], mailbox: EventChannel
) -> list[Generation]:
    """A job for each choice of each prompt, in OpenAI's order: all of the first prompt's come first."""
    if not prompts:
        raise FieldError("prompt is an empty list: there is nothing to continue", param="prompt", code="empty_prompt")
    jobs: list[Generation] = []
    for prompt in prompts:
        tokens = _encode(service, prompt)
        limit = min(
            body.max_tokens or _NEW_TOKENS,
            service.settings.max_completion_tokens,
            service.plan.slot.capacity - len(tokens),
        )
        for choice in range(body.choices):
            jobs.append(
                Generation(
                    service.model,
                    tokens,
                    max_new_tokens=limit,
                    sampling=sampling_of(body, service.settings.sampling, choice),
                    stop=body.stops,
                    evicts=False,
                    on_token=_teller(mailbox, len(jobs)),
                    logprobs=body.logprobs,
                    is_continuation=True,
                )
            )
    return jobs


def _teller(mailbox: EventChannel, choice: int) -> Callable[[int | None, str, TokenLogprob | None], None]:
    return lambda token, text, logprob: mailbox.put(choice, AnswerToken(token, text, 0, logprob))


def _encode(service: Service, prompt: str | Sequence[int]) -> list[int]:
    """A prompt's tokens, which must leave room in a slot."""
    tokens = service.model.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not tokens:
        raise FieldError("the prompt is empty: there is nothing to continue", param="prompt", code="empty_prompt")
    try:
        service.model.check_token_ids(tokens, " of the prompt")
    except InputError as error:
        raise FieldError(str(error), param="prompt") from error
    slot = service.plan.slot.capacity
    if len(tokens) >= slot:
        raise FieldError(
            f"the prompt takes {len(tokens)} tokens, and a slot holds {slot}, of which what is written needs some: "
            "shorten it",
            param="prompt",
            code="context_length_exceeded",
        )
    return tokens


async def _whole(
    service: Service, body: CompletionRequest, exchange: RequestStream, jobs: list[Generation], head: dict[str, Any]
) -> Response:
    """The completions, once all of them are there."""
    written = [CompletionStream() for _ in jobs]
    async for news in exchange.events():
        for choice, events in news.items():
            written[choice].take(events)
    choices = [
        CompletionChoice(
            index=index,
            text=own.text,
            logprobs=None if body.logprobs is None else completion_logprobs(service.model, own.logprobs),
            finish_reason=_why(job),
        )
        for index, (own, job) in enumerate(zip(written, jobs, strict=True))
    ]
    reply = CompletionResponse(**head, choices=choices, usage=_usage(body, jobs))
    return Response(reply.model_dump_json(), media_type="application/json")


def _why(job: Generation) -> FinishReason:
    return "stop" if job.finish_reason == "stop" else "length"


def _usage(body: CompletionRequest, jobs: list[Generation]) -> Usage:
    return Usage.of(sum(len(job.prompt) for job in jobs[:: body.choices]), sum(len(job.tokens) for job in jobs))


async def _chunks(
    service: Service, body: CompletionRequest, exchange: RequestStream, jobs: list[Generation], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Chunks of the stream; each choice ends with one that says why."""
    head = {**head, "object": "text_completion"}
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    if with_usage:
        head["usage"] = None
    written = [CompletionStream() for _ in jobs]

    def chunk(index: int, text: str, logprobs: list[TokenLogprob], before: int, why: str | None) -> dict[str, Any]:
        told = None if body.logprobs is None else completion_logprobs(service.model, logprobs, before).model_dump()
        return {**head, "choices": [{"index": index, "text": text, "logprobs": told, "finish_reason": why}]}

    async with aclosing(exchange.events()) as all_news:
        async for news in all_news:
            for choice, events in news.items():
                before = len(written[choice].text)
                text, logprobs = written[choice].take(events)
                if text:
                    yield chunk(choice, text, logprobs, before, None)
    for choice, job in enumerate(jobs):
        yield chunk(choice, "", [], len(written[choice].text), job.finish_reason)
    if with_usage:
        yield {**head, "choices": [], "usage": _usage(body, jobs).model_dump()}
