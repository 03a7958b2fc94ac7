"""Clients of a server under load: requests whose answers are known, requests that are wrong, clients that leave."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
from serve_requests import Request, wrong_requests

LONGEST_PAUSE = 1.0  # seconds before a refused client tries again
Answer = list[tuple[str, str, str | None]]
"""Reasoning, content and finish reason of each choice."""


@dataclass
class Tally:
    """Counts of what the clients received."""

    statuses: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    left: int = 0


async def whole(client: httpx2.AsyncClient, request: Request) -> tuple[int, Answer, int, float]:
    """Status, answer, generated tokens, and the seconds to wait."""
    response = await client.post(request.path, json=request.body)
    if response.status_code != 200:
        return response.status_code, [], 0, float(response.headers.get("retry-after", 0))
    reply = response.json()
    answer: Answer = []
    for choice in reply["choices"]:
        message = choice.get("message") or {"content": choice["text"]}
        answer.append((message.get("reasoning_content") or "", message["content"], choice["finish_reason"]))
    return 200, answer, reply["usage"]["completion_tokens"], 0.0


async def chunks(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    """Events of a stream, up to its end."""
    async for line in response.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
    raise ValueError("the stream ended without [DONE]")


class Load:
    """Clients that ask for a while, each one request after another.

    Parameters
    ----------
    requests : list of Request
    answers : dict
        By marker, what each request gives alone.
    slot_tokens : int
        For prompts that are too long.
    """

    def __init__(self, requests: list[Request], answers: dict[str, Answer], slot_tokens: int) -> None:
        self.requests, self.answers, self.tally = requests, answers, Tally()
        self.wrong = wrong_requests(slot_tokens)

    async def run(self, url: str, clients: int, seconds: float) -> None:
        """All clients at once; what has begun when the time is over is finished."""
        until = time.monotonic() + seconds
        limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
            await asyncio.gather(*(self._one(client, random.Random(index), until) for index in range(clients)))

    async def _one(self, client: httpx2.AsyncClient, rng: random.Random, until: float) -> None:
        while time.monotonic() < until:
            try:
                what = rng.random()
                if what < 0.2:
                    await self._send_wrong(client, rng)
                elif what < 0.3:
                    await self._leave(client, rng)
                else:
                    await self._ask(client, rng)
            except Exception as error:
                self.tally.mistakes.append(f"{type(error).__name__}: {error}"[:300])

    async def _send_wrong(self, client: httpx2.AsyncClient, rng: random.Random) -> None:
        path, body, due = rng.choice(self.wrong)
        response = await client.post(path, content=body, headers={"Content-Type": "application/json"})
        self.tally.statuses[f"wrong, {response.status_code}"] += 1
        if response.status_code != due or not response.json()["error"]["message"]:
            self.tally.mistakes.append(f"{response.status_code} and not {due} for {body[:60]!r}: {response.text[:200]}")

    async def _leave(self, client: httpx2.AsyncClient, rng: random.Random) -> None:
        """Go in the middle of a stream."""
        request, remaining = rng.choice(self.requests), rng.randrange(6)
        async with client.stream("POST", request.path, json={**request.body, "stream": True}) as response:
            self.tally.statuses[f"left, {response.status_code}"] += 1
            if response.status_code != 200:
                return
            self.tally.left += 1
            async for _ in chunks(response):
                remaining -= 1
                if remaining < 0:
                    return

    async def _ask(self, client: httpx2.AsyncClient, rng: random.Random) -> None:
        request, began = rng.choice(self.requests), time.monotonic()
        send = self._stream if rng.random() < 0.5 else whole
        status, answer, tokens, wait = await send(client, request)
        self.tally.statuses[f"valid, {status}"] += 1
        if status == 429 and wait:
            await asyncio.sleep(rng.random() * min(wait, LONGEST_PAUSE))
        elif status != 200:
            self.tally.mistakes.append(f"status {status} for a valid request")
        else:
            self.tally.seconds.append(time.monotonic() - began)
            self.tally.tokens += tokens
            self.check(request, answer)

    async def _stream(self, client: httpx2.AsyncClient, request: Request) -> tuple[int, Answer, int, float]:
        body = {**request.body, "stream": True, "stream_options": {"include_usage": True}}
        choices: dict[int, list[Any]] = {}
        began, tokens = time.monotonic(), 0
        async with client.stream("POST", request.path, json=body) as response:
            if response.status_code != 200:
                return response.status_code, [], 0, float(response.headers.get("retry-after", 0))
            async for chunk in chunks(response):
                if "error" in chunk:
                    raise ValueError(chunk["error"]["message"])
                tokens = (chunk.get("usage") or {}).get("completion_tokens", 0)
                for choice in chunk["choices"]:
                    delta = choice.get("delta") or {"content": choice.get("text")}
                    reasoning, content = delta.get("reasoning_content") or "", delta.get("content") or ""
                    if (reasoning or content) and not choices:
                        self.tally.first.append(time.monotonic() - began)
                    parts = choices.setdefault(choice["index"], ["", "", None])
                    parts[0], parts[1] = parts[0] + reasoning, parts[1] + content
                    parts[2] = choice["finish_reason"] or parts[2]
        return 200, [tuple(choices[index]) for index in sorted(choices)], tokens, 0.0

    def check(self, request: Request, answer: Answer) -> None:
        """Compare with what the request gives alone, and look for what belongs to others."""
        if answer != self.answers[request.marker]:
            self.tally.mistakes.append(f"{request.body}: {answer} and not {self.answers[request.marker]}"[:600])
        text = json.dumps(answer)
        for other in self.requests:
            if other.marker in text and other.marker not in json.dumps(request.body):
                self.tally.mistakes.append(f"the marker {other.marker} of another request in {text}"[:600])
