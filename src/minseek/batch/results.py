"""Lines of a result file, each in the form of its request."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minseek.batch.requests import InvalidRequest, Request
from minseek.protocol.requests import ChatRequest
from minseek.protocol.responses import (
    ChatChoice,
    ChatResponse,
    CompletionChoice,
    CompletionResponse,
    FinishReason,
    Usage,
)
from minseek.protocol.validation import public_name

_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Characters that some readers take for the end of a line, and that JSON does not escape."""
_EMPTY: dict[FinishReason, str] = {
    "length": "the answer is empty: thinking took all tokens; give more, or a thinking field, which reserves some",
    "stop": "the answer is empty: the model ended its turn with its thinking",
}
"""Notes on plain generation, by finish reason."""


@dataclass(frozen=True)
class RequestResult:
    """Result of a request.

    Attributes
    ----------
    choices : sequence of ChatChoice or CompletionChoice
        All of one kind, that of the request.
    usage : Usage
        Token counts of all choices together.
    """

    choices: Sequence[ChatChoice | CompletionChoice]
    usage: Usage


def result_record(request: Request, result: RequestResult, model: str) -> dict[str, Any]:
    """Build the line of a request that was run."""
    if request.form == "plain":
        return _plain_record(request, result)
    head: dict[str, Any] = {"created": int(time.time()), "model": public_name(model), "usage": result.usage}
    body: ChatResponse | CompletionResponse
    if isinstance(request.body, ChatRequest):
        chats = [choice for choice in result.choices if isinstance(choice, ChatChoice)]
        body = ChatResponse(id=f"chatcmpl-{request.line}", choices=chats, minseek=chats[0].minseek, **head)
    else:
        texts = [choice for choice in result.choices if isinstance(choice, CompletionChoice)]
        body = CompletionResponse(id=f"cmpl-{request.line}", choices=texts, **head)
    response = {"status_code": 200, "request_id": f"req_{request.line}", "body": body.model_dump()}
    return {"id": _batch_id(request.line), "custom_id": request.id, "response": response, "error": None}


def _plain_record(request: Request, result: RequestResult) -> dict[str, Any]:
    """Put the fields of a single choice at the top; several choices make a list."""
    logprobs = request.body.num_logprobs is not None
    choices = [_plain_choice(choice, logprobs=logprobs) for choice in result.choices]
    fields = choices[0] if len(choices) == 1 else {"choices": choices}
    return {"id": request.id, **fields, "usage": result.usage.model_dump()}


def _plain_choice(choice: ChatChoice | CompletionChoice, *, logprobs: bool) -> dict[str, Any]:
    whole = choice.model_dump()
    record: dict[str, Any] = {"text": "", "finish_reason": choice.finish_reason}
    if isinstance(choice, CompletionChoice):
        record["text"] = choice.text
    else:
        record["text"] = choice.message.content
        if choice.message.reasoning is not None:
            record["reasoning"] = choice.message.reasoning
        if choice.minseek is not None:
            record |= {name: whole["minseek"][name] for name in ("thoughts", "kv_bytes_peak", "kv_bytes_allocated")}
            if choice.minseek.note is not None:
                record["note"] = choice.minseek.note
        elif choice.message.reasoning is not None and not choice.message.content:
            record["note"] = _EMPTY[choice.finish_reason]
    if logprobs:
        record["logprobs"] = whole["logprobs"]
    return record


def error_record(invalid: InvalidRequest) -> dict[str, Any]:
    """Build the line of a request that was refused or failed."""
    if invalid.openai:
        return {
            "id": _batch_id(invalid.line),
            "custom_id": invalid.id,
            "response": None,
            "error": {"code": invalid.code, "message": invalid.message, "param": invalid.param},
            "line": invalid.line,
        }
    error = {
        "message": invalid.message,
        "type": "invalid_request_error",
        "param": invalid.param,
        "code": invalid.code,
    }
    return {"id": invalid.id, "line": invalid.line, "error": error}


def dump_record(record: dict[str, Any]) -> bytes:
    """Encode a record as one line, regardless of the texts in it."""
    try:
        return json.dumps(record, ensure_ascii=False).translate(_LINE_ENDS).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, in an id or a field's name
        return json.dumps(record).encode() + b"\n"


def _batch_id(line: int) -> str:
    return f"batch_req_{line}"
