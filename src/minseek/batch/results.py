"""Lines of a result file: what came of a request, in the form that it was asked in."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from minseek.batch.requests import InvalidRequest, Request

_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
"""Characters at which some readers end a line, and which JSON leaves as they are."""


@dataclass(frozen=True)
class Outcome:
    """What came of a request.

    Attributes
    ----------
    text : str
        The new text; of a conversation the answer without the thinking before it.
    finish_reason : {"stop", "length"}
    prompt_tokens, completion_tokens : int
        Read and written; thinking is written too.
    reasoning : str or None
        The thinking; None where there was none.
    reasoning_tokens : int
        Tokens of it.
    thoughts : list of dict or None
        Index, tokens and kept for each thought, where a strategy was asked for.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str | None = None
    reasoning_tokens: int = 0
    thoughts: list[dict[str, Any]] | None = None


def result_record(request: Request, outcome: Outcome, model: str) -> dict[str, Any]:
    """The line of a request that was honoured."""
    usage: dict[str, Any] = {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": outcome.completion_tokens}
    if request.form == "plain":
        record: dict[str, Any] = {
            "id": request.id,
            "text": outcome.text,
            "finish_reason": outcome.finish_reason,
            "usage": usage,
        }
        if outcome.reasoning is not None:
            record["reasoning"] = outcome.reasoning
        if outcome.thoughts is not None:
            record["thoughts"] = outcome.thoughts
        return record
    usage["total_tokens"] = outcome.prompt_tokens + outcome.completion_tokens
    if outcome.reasoning is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": outcome.reasoning_tokens}
    choice: dict[str, Any] = {"index": 0, "finish_reason": outcome.finish_reason, "logprobs": None}
    if request.form == "chat":
        choice["message"] = {"role": "assistant", "content": outcome.text}
        if outcome.reasoning is not None:  # both names are in use
            choice["message"] |= {"reasoning_content": outcome.reasoning, "reasoning": outcome.reasoning}
    else:
        choice["text"] = outcome.text
    body = {
        "id": f"{'chatcmpl' if request.form == 'chat' else 'cmpl'}-{request.line}",
        "object": "chat.completion" if request.form == "chat" else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage,
    }
    return {
        "id": _batch_id(request.line),
        "custom_id": request.id,
        "response": {"status_code": 200, "request_id": f"req_{request.line}", "body": body},
        "error": None,
    }


def error_record(refusal: InvalidRequest) -> dict[str, Any]:
    """The line of a request that was refused."""
    if refusal.openai:
        return {
            "id": _batch_id(refusal.line),
            "custom_id": refusal.id,
            "response": None,
            "error": {"code": refusal.code, "message": refusal.message},
            "line": refusal.line,
        }
    error = {
        "message": refusal.message,
        "type": "invalid_request_error",
        "param": refusal.param,
        "code": refusal.code,
    }
    return {"id": refusal.id, "line": refusal.line, "error": error}


def dump_record(record: dict[str, Any]) -> bytes:
    """One line, whatever its texts hold."""
    try:
        return json.dumps(record, ensure_ascii=False).translate(_LINE_ENDS).encode() + b"\n"
    except UnicodeEncodeError:  # half a surrogate pair, in an id or a field's name
        return json.dumps(record).encode() + b"\n"


def _batch_id(line: int) -> str:
    return f"batch_req_{line}"
