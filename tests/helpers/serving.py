"""A server in a thread of this process, for tests that talk to it over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

import minseek
from minseek.serve.app import create_app
from minseek.serve.server import Server, bind, listen
from minseek.serve.server_settings import ServerSettings
from minseek.serve.service import Service
from minseek.serve.slot_plan import plan_slots


@dataclass
class Running:
    """A server, its address and its service."""

    url: str
    service: Service
    server: Server

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": self.url + "/v1", "api_key": "any", "max_retries": 0, **options})

    def http(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def metric(self, name: str) -> float:
        lines = httpx2.get(self.url + "/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))


@contextmanager
def serving(
    model: minseek.Model,
    settings: ServerSettings | None = None,
    *,
    slots: int = 4,
    slot_tokens: int = 512,
    grace: float = 10,
) -> Iterator[Running]:
    """Serve a model at a free port of the loopback address."""
    app = create_app(model, plan_slots(model, slots=slots, slot_tokens=slot_tokens), settings)
    bound = bind("127.0.0.1", 0)
    listen(bound, "127.0.0.1", 0)
    server = Server(app, grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield Running(f"http://127.0.0.1:{bound.getsockname()[1]}", app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server did not stop"


def wait_for(what: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)
