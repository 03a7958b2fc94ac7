"""Slots under load: the queue, clients that go, jobs that fail, and the end."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from torch import Tensor

import minseek
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.server_settings import ServerSettings
from tests.helpers.serving import Running, serving, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")
CHAT = "/v1/chat/completions"


class Gate:
    """Holds the engine before a pass until it is opened, so that a test knows which jobs are running."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.open.set()
        real = ThinkingJob.next_tokens

        def next_tokens(job: ThinkingJob, logits: Tensor) -> Sequence[int]:
            self.open.wait(30)
            return real(job, logits)

        monkeypatch.setattr(ThinkingJob, "next_tokens", next_tokens)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.open.set()


def body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_completion_tokens": 40, **fields}


def content(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def send_raw(running: Running, fields: dict[str, Any]) -> socket.socket:
    """A request whose connection the test can drop."""
    raw = socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10)
    data = json.dumps(fields).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    raw.sendall(head.encode() + b"\r\n\r\n" + data)
    return raw


def test_a_full_queue_is_a_429_that_says_when_to_try_again(tiny: minseek.Model, gate: Gate) -> None:
    with (
        serving(tiny, ServerSettings(queue=2), slots=1) as running,
        ThreadPoolExecutor(3) as pool,
        running.http() as http,
    ):
        alone = content(http.post(CHAT, json=body()))
        gate.open.clear()
        worker = running.service.engine_thread
        responses = [pool.submit(http.post, CHAT, json=body()) for _ in range(3)]
        wait_for(lambda: (len(worker.running), worker.waiting) == (1, 2))
        assert running.metric("minseek_queue_length") == 2
        assert running.metric("minseek_slots_used") == 1
        for stream in (False, True):
            full = http.post(CHAT, json=body(stream=stream))
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "queue_full"
            assert 1 <= int(full.headers["retry-after"]) <= 600
            message = f"3 choices run or wait, and no more are accepted: try again in {full.headers['retry-after']} s"
            assert full.json()["error"]["message"] == message
        with pytest.raises(openai.RateLimitError):
            running.client().completions.create(model=running.service.name, prompt="a")
        gate.open.set()
        assert [content(one.result()) for one in responses] == [alone] * 3
        assert content(http.post(CHAT, json=body())) == alone
        refused = http.post(CHAT, json=body(n=4))  # one slot and a queue of two: never
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")


def test_a_429_says_how_many_choices_the_queue_takes(tiny: minseek.Model, gate: Gate) -> None:
    with (
        serving(tiny, ServerSettings(queue=1), slots=3) as running,
        ThreadPoolExecutor(1) as pool,
        running.http() as http,
    ):
        gate.open.clear()
        first = pool.submit(http.post, CHAT, json=body())
        wait_for(lambda: len(running.service.engine_thread.running) == 1)
        full = http.post(CHAT, json=body(n=4))
        assert full.status_code == 429
        message = "the request has 4 choices, and the queue takes 3 now: send fewer, or try again in "
        assert full.json()["error"]["message"] == f"{message}{full.headers['retry-after']} s"
        gate.open.set()
        assert content(first.result()) == content(http.post(CHAT, json=body(n=3)))


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_disconnects_frees_its_slot_at_once(tiny: minseek.Model, gate: Gate, stream: bool) -> None:
    with serving(tiny, slots=1) as running, running.http() as http:
        alone = content(http.post(CHAT, json=body("other")))
        gate.open.clear()
        fields = body(stream=stream, thinking={"thoughts": "unbounded"}, max_completion_tokens=30_000)
        raw, waits = send_raw(running, fields), send_raw(running, fields)
        worker = running.service.engine_thread
        wait_for(lambda: (len(worker.running), worker.waiting) == (1, 1))
        raw.close()
        waits.close()
        time.sleep(0.3)  # the server notices; the engine is held meanwhile
        gate.open.set()
        wait_for(lambda: worker.busy == 0, seconds=1)
        assert running.metric("minseek_slots_used") == 0
        assert running.service.engine_thread.engine.free == 1
        assert content(http.post(CHAT, json=body("other"))) == alone


def test_a_stream_that_is_dropped_in_the_middle(tiny: minseek.Model) -> None:
    with serving(tiny, slots=2) as running:
        fields = body(stream=True, thinking={"thoughts": "unbounded"}, max_completion_tokens=30_000)
        raw = send_raw(running, fields)
        given = b""
        while given.count(b"data: ") < 5:
            given += raw.recv(4096)
        assert running.service.engine_thread.busy == 1
        raw.close()
        wait_for(lambda: running.service.engine_thread.busy == 0, seconds=1)


def test_a_job_that_fails_harms_no_other(
    tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ThinkingJob.next_tokens
    marked = set(tiny.encode("~"))

    def next_tokens(job: ThinkingJob, logits: Tensor) -> Sequence[int]:
        if marked & set(job._run.prompt):
            raise ValueError(tiny.decode(job._run.prompt))
        return real(job, logits)

    with serving(tiny, slots=3) as running, running.http() as http, ThreadPoolExecutor(12) as pool:
        texts = [f"question {n}" for n in range(6)]
        alone = [content(http.post(CHAT, json=body(text))) for text in texts]
        monkeypatch.setattr(ThinkingJob, "next_tokens", next_tokens)
        good = [pool.submit(http.post, CHAT, json=body(text)) for text in texts]
        bad = [pool.submit(http.post, CHAT, json=body("~ hidden", stream=n % 2 == 0)) for n in range(6)]
        assert [content(one.result()) for one in good] == alone
        for n, failed in enumerate(bad):
            response = failed.result()
            if n % 2:
                assert response.status_code == 500
                error = response.json()["error"]
            else:
                assert response.status_code == 200  # the stream had begun
                *_, last = [line for line in response.text.splitlines() if line]
                error = json.loads(last.removeprefix("data: "))["error"]
            assert (error["type"], error["code"]) == ("server_error", "model_error")
            assert "hidden" not in response.text
        assert "ValueError" in caplog.text
        assert "hidden" not in caplog.text
        assert running.service.engine_thread.state == "ok"


def test_a_pass_that_fails_ends_its_jobs_and_not_the_server(
    tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tiny) as running, running.http() as http:
        alone = content(http.post(CHAT, json=body()))
        with monkeypatch.context() as patched:

            def fail(*_: object) -> None:
                raise MemoryError

            patched.setattr(type(tiny), "forward_batch", fail)
            assert http.post(CHAT, json=body()).status_code == 500
        wait_for(lambda: running.service.engine_thread.busy == 0)
        assert running.service.engine_thread.engine.free == 4
        assert content(http.post(CHAT, json=body())) == alone
        assert http.get("/health").json() == {"status": "ok"}


def test_a_worker_that_has_failed_is_not_one_that_stops(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tiny) as running, running.http() as http:

        def fail(*_: object) -> None:
            raise RuntimeError

        monkeypatch.setattr(type(running.service.engine_thread), "_pass", fail)
        assert http.post(CHAT, json=body()).status_code == 503
        wait_for(lambda: running.service.engine_thread.state == "failed")
        for _ in range(2):
            later = http.post(CHAT, json=body())
            assert (later.status_code, later.json()["error"]["code"]) == (503, "unavailable")
            assert later.json()["error"]["message"] == "the server has failed: it must be started again"
        assert http.get("/health").json() == {"status": "failed"}


def test_idle_costs_nothing(tiny: minseek.Model) -> None:
    with serving(tiny) as running, running.http() as http:
        http.post(CHAT, json=body())
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.25  # polling would take 0.5 s


def stopping(running: Running, while_it_stops: Callable[[], None]) -> None:
    running.server.should_exit = True
    wait_for(lambda: running.service.engine_thread.state == "stopping")
    while_it_stops()


def test_stopping_finishes_running_requests_and_refuses_new_ones(tiny: minseek.Model, gate: Gate) -> None:
    with serving(tiny, slots=1) as running, ThreadPoolExecutor(2) as pool, running.http() as http:
        alone = content(http.post(CHAT, json=body()))
        gate.open.clear()
        responses = [pool.submit(httpx2.post, running.url + CHAT, json=body(), timeout=60) for _ in range(2)]
        wait_for(lambda: running.service.engine_thread.busy == 2)

        def refuse() -> None:
            assert httpx2.get(running.url + "/health").status_code == 503
            late = httpx2.post(running.url + CHAT, json=body())
            assert (late.status_code, late.json()["error"]["code"]) == (503, "unavailable")

        stopping(running, refuse)
        gate.open.set()
        assert [content(one.result()) for one in responses] == [alone] * 2


def test_stopping_ends_late_requests_with_an_error(tiny: minseek.Model) -> None:
    endless = body(thinking={"thoughts": "unbounded"}, max_completion_tokens=30_000)
    with serving(tiny, slots=2, grace=0.2) as running, ThreadPoolExecutor(3) as pool:
        responses = [
            pool.submit(httpx2.post, running.url + CHAT, json={**endless, "stream": stream}, timeout=60)
            for stream in (False, True, False)
        ]
        wait_for(lambda: running.service.engine_thread.busy == 3)
        running.server.should_exit = True
        whole, stream, waiting = (one.result() for one in responses)
    for response in (whole, waiting):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    last = [line for line in stream.text.splitlines() if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"


def test_the_log_has_no_prompts_by_default(tiny: minseek.Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "minseek.serve")
    for log_prompts in (False, True):
        caplog.clear()
        with serving(tiny, ServerSettings(log_prompts=log_prompts)) as running, running.http() as http:
            http.post(CHAT + "?q=hidden", json=body("marked words"))
            http.post(CHAT, json=body("marked words", temperature=9))
            http.post("/v1/completions", json={"prompt": "marked words", "max_tokens": 2})
            http.get("/%0aforged%20line/marked%1b")
        assert ("marked words" in caplog.text) == log_prompts
        assert "hidden" not in caplog.text
        assert f"POST {CHAT} 200 " in caplog.text
        assert f"POST {CHAT} 400 " in caplog.text
        assert "\nforged" not in caplog.text
