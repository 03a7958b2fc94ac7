"""Access to the server: origins of web pages, keys, bodies that do not arrive, and the log."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time

import httpx2
import pytest

import minseek
from minseek.errors import InputError
from minseek.serve.log import log_to
from minseek.serve.server_settings import ServerSettings
from tests.helpers.serving import serving, wait_for

pytestmark = pytest.mark.usefixtures("one_thread")
CHAT = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 4}).encode()


@pytest.mark.parametrize(
    "origin", ["foo", "", "a.org", "https://", "https://a.org/", "https://a.org/x", "https://A.org", "https://a b"]
)
def test_what_no_browser_sends_as_an_origin_is_refused(origin: str) -> None:
    with pytest.raises(InputError, match="is no origin"):
        ServerSettings(cors_origins=(origin,))


@pytest.mark.parametrize(
    "origin", ["*", "null", "https://a.org", "http://localhost:3000", "http://[::1]:8080", "chrome-extension://abcdef"]
)
def test_origins_that_browsers_send_are_accepted(origin: str) -> None:
    assert ServerSettings(cors_origins=(origin,)).cors_origins == (origin,)


@pytest.mark.parametrize("declared", [True, False], ids=["Content-Length", "chunked"])
def test_a_body_that_does_not_arrive_is_cut_off(tiny: minseek.Model, declared: bool) -> None:
    size = f"Content-Length: {len(BODY)}" if declared else "Transfer-Encoding: chunked"
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{size}\r\n\r\n"
    with serving(tiny, ServerSettings(body_seconds=0.3)) as server, server.http() as http:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(head.encode() + (BODY[:9] if declared else b"5\r\nhello\r\n"))
            answer = b"".join(iter(lambda: client.recv(4096), b""))  # until the server closes the connection
        assert answer.startswith(b"HTTP/1.1 408 ")
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["code"], error["message"]) == ("timeout", "the body did not arrive within 0.3 seconds")
        assert not server.service.engine_thread.busy
        assert http.post(CHAT, content=BODY, headers={"Content-Type": "application/json"}).status_code == 200


def test_an_answer_may_take_longer_than_its_body(tiny: minseek.Model) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "thinking": {"thoughts": "unbounded"}, "stream": True}
    with serving(tiny, ServerSettings(body_seconds=0.05, max_completion_tokens=400)) as server, server.http() as http:
        began = time.monotonic()
        with http.stream("POST", CHAT, json=body) as response:
            lines = [line for line in response.iter_lines() if line]
        assert time.monotonic() - began > 0.05
        assert lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("api_key", [None, "api"])
def test_metrics_have_a_key_of_their_own(tiny: minseek.Model, api_key: str | None) -> None:
    with serving(tiny, ServerSettings(api_key=api_key, metrics_key="scrape")) as server, server.http() as http:
        for path, key, status in (
            ("/metrics", "scrape", 200),
            ("/metrics", None, 401),
            ("/metrics", "api", 401),
            ("/v1/models", "api", 200),
            ("/v1/models", "scrape", 401 if api_key else 200),
            ("/v1/models", None, 401 if api_key else 200),
            ("/health", None, 200),
        ):
            sent = {} if key is None else {"Authorization": f"Bearer {key}"}
            assert http.get(path, headers=sent).status_code == status, (path, key)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_has_dates_and_levels(tiny: minseek.Model, form: str) -> None:
    stream, log = io.StringIO(), logging.getLogger("minseek.serve")
    before = log.handlers, log.level
    try:
        log_to(stream, form, "info")  # type: ignore[arg-type]
        with serving(tiny) as server:
            httpx2.get(server.url + "/health")
            httpx2.get(server.url + "/none?key=1")
            wait_for(lambda: stream.getvalue().count("\n") == 2)
            log_to(stream, form, "warning")  # type: ignore[arg-type]
            httpx2.get(server.url + "/health")
            httpx2.post(server.url + "/health")
            wait_for(lambda: stream.getvalue().count("\n") == 3)
    finally:
        log.handlers, log.level = before
    lines = stream.getvalue().splitlines()
    if form == "text":
        begin = time.strftime("%Y-%m-%d ")
        for line, said in zip(
            lines, ("INFO GET /health 200", "WARNING GET /none 404", "WARNING POST /health 405"), strict=True
        ):
            assert re.fullmatch(rf"{begin}\d\d:\d\d:\d\d {said} \d+ ms", line), line
    else:
        records = [json.loads(line) for line in lines]
        assert [(r["level"], r["method"], r["path"], r["status"]) for r in records] == [
            ("info", "GET", "/health", 200),
            ("warning", "GET", "/none", 404),
            ("warning", "POST", "/health", 405),
        ]
        for record in records:
            assert isinstance(record["ms"], int)
            assert abs(time.time() - time.mktime(time.strptime(record["time"][:19], "%Y-%m-%dT%H:%M:%S"))) < 86400
