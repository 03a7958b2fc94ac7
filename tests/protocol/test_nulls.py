"""A field that is null counts as absent, at every depth and under any name."""

from __future__ import annotations

from typing import Any

import pytest

from minseek.protocol.requests import ChatRequest, CompletionRequest
from minseek.protocol.validation import parse_body
from tests.helpers.recorded_bodies import CHAT, RECORDED
from tests.protocol.test_one_parser import ACCEPTED

NAMES = ("repetition_penalty", "name", "tool_call_id", "cache_control", "anything")
OWN = ("metadata", "logit_bias")  # their keys are no fields


def with_nulls(value: Any) -> Any:
    """A body with null fields in every object that has not got them."""
    if isinstance(value, list):
        return [with_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = {name: item if name in OWN else with_nulls(item) for name, item in value.items()}
    return {**dict.fromkeys(NAMES), **fields}


@pytest.mark.parametrize(
    ("path", "body"), [*ACCEPTED, *(request for requests in RECORDED.values() for request in requests)]
)
def test_null_fields_change_nothing(path: str, body: dict[str, Any]) -> None:
    if path == CHAT:
        body = {"messages": [{"role": "user", "content": "?"}], **body}
        assert parse_body(ChatRequest, with_nulls(body)) == parse_body(ChatRequest, body)
    else:
        assert parse_body(CompletionRequest, with_nulls(body)) == parse_body(CompletionRequest, body)
