"""Requests to load a server with: valid ones that are marked, and wrong ones with the status that is due."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
EFFORTS: list[dict[str, Any]] = [
    {"reasoning_effort": "none"},
    {"reasoning_effort": "low"},
    {"thinking": {"strategy": "min-seek", "thoughts": 2}},
    {"thinking": {"strategy": "min-seek", "thoughts": 4, "rule": "latest", "keep": 2}},
    {"thinking": {"strategy": "budget-forcing", "thoughts": 1}},
    {"thinking_token_budget": 20},
    {"reasoning_effort": "medium", "n": 2},
    {"reasoning_effort": "low", "logprobs": True, "top_logprobs": 2},
]


@dataclass(frozen=True)
class Request:
    """A valid request; its marker is in no other."""

    marker: str
    path: str
    body: dict[str, Any]


def valid_requests(count: int, max_tokens: int) -> list[Request]:
    """Greedy ones, so that each has one right answer."""
    made = []
    for index in range(count):
        marker = f"{random.Random(index).randrange(10**9, 10**10)}"
        text = f"Compute {index + 2}*{index % 7 + 3}+{index % 5}. The note {marker} is not needed."
        body: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
        if index % 5 == 4:
            made.append(Request(marker, COMPLETIONS, {**body, "prompt": text}))
        else:
            messages = [{"role": "user", "content": text}]
            made.append(Request(marker, CHAT, {**body, "messages": messages, **EFFORTS[index % len(EFFORTS)]}))
    return made


def wrong_requests(slot_tokens: int) -> list[tuple[str, bytes, int]]:
    """Path, body and the status that is due."""
    hello: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
    too_long = {"messages": [{"role": "user", "content": "0123456789" * slot_tokens}]}
    bodies: list[tuple[str, bytes, int]] = [
        (CHAT, b'{"messages": [', 400),
        (CHAT, b"\xff\xfe\x00", 400),
        (CHAT, b"[" * 50_000, 400),
        (CHAT, b"", 400),
        (CHAT, b" " * 2_000_000, 413),
    ]
    objects: list[tuple[str, dict[str, Any], int]] = [
        (CHAT, too_long, 400),
        (CHAT, {**hello, "frobnicate": 1}, 400),
        (CHAT, {**hello, "temperature": "hot"}, 400),
        (CHAT, {**hello, "n": 0}, 400),
        (CHAT, {**hello, "tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
        (CHAT, {**hello, "thinking_token_budget": 5, "reasoning_budget_tokens": 6}, 400),
        (CHAT, {**hello, "model": "another"}, 404),
        (COMPLETIONS, {"prompt": [10**9]}, 400),
        ("/v1/nothing", hello, 404),
    ]
    return bodies + [(path, json.dumps(body).encode(), status) for path, body, status in objects]
