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

from minseek.errors import InputError
from minseek.protocol.fields import FieldError
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_plan import DoesNotFitError
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.bodies import ChatRequest
from minseek.serve.chat_stream import ChatStream, Delta
from minseek.serve.event_channel import EventChannel
from minseek.serve.replies import ChatChoice, ChatLogprobs, ChatMessage, ChatResponse, MinseekDetails, Usage
from minseek.serve.request_stream import EventStream, RequestStream, cancel_on_disconnect, check_stream_options
from minseek.serve.sampling import sampling_of
from minseek.serve.service import Service
from minseek.serve.thinking import thinking_of
from minseek.serve.tokens import chat_logprobs

ROUTE = "/v1/chat/completions"


async def chat(request: Request, service: Service, body: ChatRequest) -> Response:
    """Answer a chat, as a whole or as a stream."""
    service.check_model(body.model)
    service.check_choices(body.choices, "n")
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError('top_logprobs has no effect without "logprobs": true', param="top_logprobs")
    check_stream_options(body)
    mailbox = EventChannel()
    jobs = await service.prepare(lambda: _jobs(service, body, mailbox))
    service.log_texts(ROUTE, [message.text for message in body.messages])
    exchange = RequestStream(service, jobs, mailbox, ROUTE)
    turns = [ChatStream(service.model.thinking, service.token_bytes) for _ in jobs]
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    if body.stream:
        return EventStream(exchange, _chunks(service, body, exchange, turns, head))
    return await cancel_on_disconnect(request, exchange, _whole(service, body, exchange, turns, head))


def _jobs(service: Service, body: ChatRequest, mailbox: EventChannel) -> list[ThinkingJob]:
    """A job for each choice."""
    messages = [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in body.messages
    ]
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise FieldError(
            f"the last message must be the user's and not empty, and it is the {body.messages[-1].role}'s, with "
            f"{len(body.messages[-1].text)} characters",
            param=f"messages[{len(messages) - 1}]",
        )
    strategy, limits = thinking_of(body, service.defaults)
    try:
        return [
            ThinkingJob(
                service.model,
                messages,
                RunOptions(
                    strategy=strategy,
                    sampling=sampling_of(body, service.settings.sampling, choice),
                    limits=limits,
                    stop=body.stops,
                    logprobs=(body.top_logprobs or 0) if body.logprobs else None,
                ),
                plan=service.plan,
                on_event=partial(mailbox.put, choice),
            )
            for choice in range(body.choices)
        ]
    except FieldError:
        raise
    except DoesNotFitError as error:
        raise _refusal(service, error) from None
    except InputError as error:
        raise FieldError(str(error), param="messages") from None


def _refusal(service: Service, error: DoesNotFitError) -> FieldError:
    """Why a conversation does not fit into a slot: its messages are too long, or the thoughts that it asks for."""
    slot = service.plan.slot.capacity
    if error.least <= slot:
        return FieldError(
            f"the messages take {error.prompt} tokens, the thoughts and the answer at least "
            f"{error.needed - error.prompt}, and a slot holds {slot}: ask for fewer or shorter thoughts, or keep fewer",
            param="thinking",
        )
    return FieldError(
        f"the messages take {error.prompt} tokens, and a slot holds {slot}, of which thinking and answer need at least "
        f"{error.least - error.prompt}: shorten them",
        param="messages",
        code="context_length_exceeded",
    )


async def _whole(
    service: Service, body: ChatRequest, exchange: RequestStream, turns: list[ChatStream], head: dict[str, Any]
) -> Response:
    """The answers, once all of them are complete."""
    pieces: list[list[Delta]] = [[] for _ in turns]
    async for news in exchange.events():
        for choice, events in news.items():
            pieces[choice].extend(turns[choice].pieces(events))
    choices = [_choice(service, body, index, *pair) for index, pair in enumerate(zip(turns, pieces, strict=True))]
    usage = _usage(turns)
    reply = ChatResponse(**head, choices=choices, usage=usage, minseek=choices[0].minseek)
    return Response(reply.model_dump_json(), media_type="application/json")


def _choice(service: Service, body: ChatRequest, index: int, turn: ChatStream, pieces: list[Delta]) -> ChatChoice:
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    thoughts = reasoning if turn.stats.thinking_tokens else None
    logprobs = [logprob for piece in pieces for logprob in piece.logprobs]
    return ChatChoice(
        index=index,
        message=ChatMessage(
            content="".join(piece.text for piece in pieces if piece.kind == "content"),
            reasoning_content=thoughts,
            reasoning=thoughts,
        ),
        logprobs=ChatLogprobs(content=chat_logprobs(service.model, logprobs)) if body.logprobs else None,
        finish_reason=turn.finish_reason,
        minseek=MinseekDetails(**turn.report()),
    )


def _usage(turns: list[ChatStream]) -> Usage:
    stats = [turn.stats for turn in turns]
    return Usage.of(stats[0].prompt_tokens, sum(s.tokens for s in stats), sum(s.thinking_tokens for s in stats))


async def _chunks(
    service: Service, body: ChatRequest, exchange: RequestStream, turns: list[ChatStream], head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Chunks of the stream."""
    head = {**head, "object": "chat.completion.chunk"}
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    begun: set[int] = set()
    async with aclosing(exchange.events()) as all_news:
        async for news in all_news:
            for choice, events in news.items():
                for piece in turns[choice].pieces(events):
                    made = _chunk(service, body, choice, turns[choice], piece, first=choice not in begun)
                    begun.add(choice)
                    yield {**head, **made, **({"usage": None} if with_usage else {})}
    if with_usage:
        usage = _usage(turns)
        yield {**head, "choices": [], "usage": usage.model_dump()}


def _chunk(
    service: Service, body: ChatRequest, index: int, turn: ChatStream, piece: Delta, *, first: bool
) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": ""} if first else {}
    if piece.kind == "reasoning":
        delta |= {"reasoning_content": piece.text, "reasoning": piece.text}
    elif piece.kind == "content":
        delta["content"] = piece.text
    choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
    if body.logprobs and piece.logprobs:
        content = chat_logprobs(service.model, piece.logprobs)
        choice["logprobs"] = ChatLogprobs(content=content).model_dump()
    if piece.note["type"] == "finished":
        choice["finish_reason"] = turn.finish_reason
    return {"choices": [choice], "minseek": piece.note}
