"""Batch files for tests: requests, results, and a Ctrl-C while they run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minseek.engine import Engine
from minseek.protocol.chat_stream import CleanText

MACHINE = ["--dtype", "float32", "--device", "cpu"]
EVICTING = ["--kv-budget", "120KB", "--cap", "48", "--block", "16"]  # two slots
Batch = Callable[..., SimpleNamespace]


def as_lines(items: list[Any]) -> bytes:
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items)


def read_records(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    assert not raw or raw.endswith(b"\n")
    return [json.loads(line) for line in raw.splitlines()]


def plain(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "prompt": "word " * (3 + n % 5), **fields} for n in range(count)]


def chat(name: str, **body: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Why?"}]} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def interrupted_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Send Ctrl-C after `count` jobs have finished."""
    real = Engine.run

    def run(engine: Engine, jobs: Any) -> Iterator[Any]:
        for done, job in enumerate(real(engine, jobs)):
            if done == count:
                raise KeyboardInterrupt
            yield job

    monkeypatch.setattr(Engine, "run", run)


def clean(answer: str) -> str:
    """An answer without think tags and surrounding space, as every response has it."""
    return CleanText(("<think>", "</think>")).push(answer, last=True)
