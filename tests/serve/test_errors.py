"""Refused requests, none of which stops the server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import minseek
from minseek.serve.server_settings import ServerSettings
from tests.helpers.serving import Running, serving

pytestmark = pytest.mark.usefixtures("one_thread")
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 8}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny, ServerSettings(max_body_bytes=20_000)) as server:
        yield server


@pytest.fixture
def http(running: Running) -> Iterator[httpx2.Client]:
    with running.http() as client:
        yield client
        assert client.post(CHAT, json=HELLO).status_code == 200, "it does not answer any more"


def error(response: httpx2.Response, status: int = 400) -> dict[str, Any]:
    """The error of a response, in the envelope that every client knows."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hello"}, "messages", "must be a valid list, not 'hello'"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "not 'tool'"),
    ({"messages": [{"role": "user", "content": "a", "name": 3}]}, "messages[0].name", "a valid string, not 3"),
    ({"messages": [{"role": "user", "content": "a", "names": "b"}]}, "messages[0].names", "not supported"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "is missing"),
    ({"messages": [{"role": "user", "content": "  "}]}, "messages[0]", "is empty"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, "messages[0]", "must be the user's"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "'text'"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "surrogate"),
    ({"temperature": "1"}, "temperature", "a valid number, not '1'"),
    ({"temperature": True}, "temperature", "a valid number, not true"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"max_completion_tokens": 60.5}, "max_completion_tokens", "a valid integer, not 60.5"),
    ({"stop": {}}, "stop", "stop must be a valid string or a valid list, not an object"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content", "or a valid list, not an object"),
    ({"metadata": 3}, "metadata", "a JSON object, not 3"),
    ({"min_p": 1.1}, "min_p", "less than or equal to 1"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"seed": 1.5}, "seed", "integer"),
    ({"n": 9}, "n", "less than or equal to 8"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
    ({"max_tokens": 9}, "max_tokens", "differ"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": 5}, "stop", "a valid string or a valid list, not 5"),
    ({"stop": ["a", ""]}, "stop[1]", "at least 1 character"),
    ({"top_logprobs": 2}, "top_logprobs", "no effect without"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "no effect without"),
    ({"stream": "yes"}, "stream", "boolean"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"functions": [{}]}, "functions", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "not supported"),
    ({"logit_bias": {"50256": -100}}, "logit_bias", "outside the model's vocabulary"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "less than or equal to 100"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a", "must be"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
    ({"presence_penalty": -2.5}, "presence_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than or equal to 0.01"),
    ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
    ({"audio": {"voice": "a"}}, "audio", "not supported"),
    ({"store": True}, "store", "not supported"),
    ({"service_tier": "flex"}, "service_tier", "not supported"),
    ({"temprature": 1}, "temprature", "not supported"),
    ({"reasoning_effort": "huge"}, "reasoning_effort", "'none', 'minimal'"),
    ({"thinking_token_budget": -1}, "thinking_token_budget", "greater than or equal to 0"),
    ({"thinking_token_budget": 5, "reasoning_budget_tokens": 6}, "reasoning_budget_tokens", "differ"),
    ({"thinking_token_budget": 5, "thinking": {"budget_tokens": 6}}, "thinking.budget_tokens", "differ"),
    ({"reasoning_effort": "none", "thinking_token_budget": 5}, "reasoning_effort", "leave one out"),
    ({"reasoning_effort": "high", "thinking": {"thoughts": 5}}, "reasoning_effort", "leave one out"),
    ({"thinking": {"type": "disabled", "thoughts": 5}}, "thinking.type", "leave one out"),
    ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, "thinking.type", "reasoning_effort, asks"),
    ({"thinking": {"type": "enabled"}, "reasoning_effort": "none"}, "reasoning_effort", "thinking.type, asks"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens", "thinking.type, asks"),
    ({"thinking": {"strategy": "standard", "budget_tokens": 0}}, "thinking.budget_tokens", "thinking.strategy, asks"),
    ({"thinking": {"thoughts": 2}, "thinking_token_budget": 0}, "thinking_token_budget", "thinking.thoughts, asks"),
    ({"thinking": {"vote": True}, "reasoning_effort": "none"}, "reasoning_effort", "thinking.vote, asks"),
    ({"thinking": {"min_thought_tokens": 600}, "max_completion_tokens": 5000}, "thinking", "shorter thoughts"),
    (
        {"thinking": {"thoughts": 500, "keep": 490}, "max_completion_tokens": 5000},
        "thinking",
        "holds 512: ask for fewer",
    ),
    ({"thinking": {"strategy": "best"}}, "thinking.strategy", "'min-seek'"),
    ({"thinking": {"thoughts": "lots"}}, "thinking.thoughts", "'unbounded'"),
    ({"thinking": {"strategy": "standard", "thoughts": 5}}, "thinking.thoughts", "no effect"),
    ({"thinking": {"strategy": "budget-forcing", "keep": 2}}, "thinking.keep", "no effect"),
    ({"thinking": {"min_thought_tokens": 9, "max_thought_tokens": 8}}, "thinking", "must not be more"),
    (
        {"thinking": {"thoughts": 2, "keep": 5}},
        "thinking.keep",
        "keep 5 has no effect with thinking.thoughts 2",
    ),
    ({"thinking": {"effort": 9}}, "thinking.effort", "not supported"),
]


@pytest.mark.parametrize(
    ("fields", "param", "message"), WRONG, ids=[f"{param}-{n}" for n, (_, param, _) in enumerate(WRONG)]
)
def test_fields_that_are_not_supported_are_named(
    http: httpx2.Client, fields: dict[str, Any], param: str, message: str
) -> None:
    wrong = error(
        http.post(CHAT, content=json.dumps({**HELLO, **fields}), headers={"Content-Type": "application/json"})
    )
    assert wrong["param"] == param
    assert message in wrong["message"]
    assert wrong["type"] == "invalid_request_error"


HARMLESS: list[dict[str, Any]] = [
    {"user": "a", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True},
    {"tools": [], "tool_choice": "auto", "functions": [], "function_call": "none", "logit_bias": {}},
    {"frequency_penalty": 0, "presence_penalty": 0.0, "response_format": {"type": "text"}, "modalities": ["text"]},
    {"frequency_penalty": None, "presence_penalty": None, "repetition_penalty": None, "logit_bias": None},
    {"temperature": None, "stop": None, "n": None, "stream": False, "thinking": None, "audio": None, "tools": None},
    {"safety_identifier": "a", "prompt_cache_key": "b", "verbosity": "medium", "seed": -5, "top_k": 3, "min_p": 0.1},
    {"max_tokens": 8, "thinking": {"type": "enabled"}},
    {"thinking_token_budget": 4, "thinking_budget_tokens": 4, "thinking": {"budget_tokens": 4}},
    {"thinking": {"thoughts": "unbounded", "rule": "latest", "keep": 2, "answer": "final-thought"}},
    {"messages": [{"role": "developer", "content": "brief"}, {"role": "user", "content": "hello", "tool_calls": None}]},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=lambda fields: next(iter(fields)))
def test_harmless_fields_are_accepted(http: httpx2.Client, fields: dict[str, Any]) -> None:
    assert http.post(CHAT, json={**HELLO, **fields}).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [5, 10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": "a" * 512}, "prompt"),
        ({"prompt": ["a"] * 69}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "thinking": {}}, "thinking"),
    ],
)
def test_fields_of_completions(http: httpx2.Client, fields: dict[str, Any], param: str) -> None:
    assert error(http.post("/v1/completions", json=fields))["param"] == param


BODIES = {
    "empty": b"",
    "cut": b'{"messages": [',
    "list": b"[1]",
    "text": b'"hello"',
    "latin": b'{"messages": "\xff"}',
    "deep": b"[" * 15_000,
    "deep-objects": b'{"a":' * 3_000,
    "deep-inside": b'{"messages": [], "tools": ' + b"[" * 900 + b"]" * 900 + b"}",
    "nan": b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    "infinite": b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    "digits": b'{"messages": [], "seed": ' + b"9" * 6_000 + b"}",
    "half-a-pair": b'{"messages": [], "\\ud800": 1}',
    "zero": b"\x00\x00",
    "mark": b'\xef\xbb\xbf{"messages": 5}',
}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_malformed_bodies(http: httpx2.Client, body: bytes, path: str) -> None:
    error(http.post(path, content=body, headers={"Content-Type": "application/json"}))


def test_a_foreign_page_cannot_post_without_a_preflight_request(http: httpx2.Client) -> None:
    """Browsers send text/plain across origins without asking; only JSON is taken."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):  # a Blob without a type has no header
        for path, sent in ((CHAT, HELLO), ("/v1/completions", {"prompt": "a"})):
            headers = {} if kind is None else {"Content-Type": kind}
            refused = http.post(path, content=json.dumps(sent), headers=headers)
            assert ("content-type" in refused.request.headers) == (kind is not None)
            assert "application/json" in error(refused)["message"]
    assert "access-control-allow-origin" not in http.get("/v1/models", headers={"Origin": "https://a.org"}).headers


def test_bodies_that_are_too_long_are_not_read(running: Running, http: httpx2.Client) -> None:
    said = error(http.post(CHAT, content=b"x" * 20_001), 413)
    assert said["code"] == "body_too_large"

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 1000

    error(http.post(CHAT, content=chunks(), headers={"Content-Type": "application/json"}), 413)
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n")
        assert raw.recv(1000).split(b" ")[1] in (b"400", b"413")


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/page/../app.py", "/..%2f..%2fetc%2fpasswd", "/page.js/../app.py", "/%2e%2e/app.py"),
        *("/docs", "/redoc", "/.env", "//etc/passwd", "/page.css%00.py", "/static/../../x"),
    ],
)
def test_no_path_reads_a_file(running: Running, http: httpx2.Client, path: str) -> None:
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        given = b""
        while more := raw.recv(65536):
            given += more
    assert given.split(b" ")[1] == b"404", given[:200]
    assert b"root:" not in given
    assert b"import" not in given


def test_head_is_get_without_a_body_and_a_slash_at_the_end_is_ignored(running: Running, http: httpx2.Client) -> None:
    for path in ("/health", "/v1/models", f"/v1/models/{running.service.name}", "/", "/page.js", "/metrics"):
        whole, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "x-content-type-options"):
            assert head.headers[name] == whole.headers[name]
        slash = http.get(path.rstrip("/") + "/")
        assert (slash.status_code, slash.history) == (200, [])
        if path != "/metrics":
            assert slash.content == whole.content
            assert head.headers["content-length"] == str(len(whole.content))
    assert http.post(CHAT + "/", json=HELLO).status_code == 200
    assert http.head(CHAT).status_code == 405
    assert http.head("/none").status_code == 404
    assert running.metric('minseek_requests_total{route="/health",status="200"}') == 3


def test_methods_and_models_that_are_not_there(http: httpx2.Client) -> None:
    assert error(http.get(CHAT), 405)["code"] == "method_not_allowed"
    assert error(http.get("/v1/models/none"), 404)["code"] == "model_not_found"
    assert error(http.get("/v1/nothing"), 404)["code"] == "not_found"
    assert error(http.get("/v1/models/%2e%2e%2fx"), 404)["code"] == "model_not_found"


def test_the_key_is_needed_for_all_but_health_and_page(tiny: minseek.Model) -> None:
    with serving(tiny, ServerSettings(api_key="secret")) as running, running.http() as http:
        for path in ("/v1/models", "/metrics", "/openapi.json", "/v1/nothing", "/health/x", "/page.js/x"):
            for given in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "secret"},
                {"Authorization": "Bearer x secret"},
            ):
                response = http.get(path, headers=given)
                assert error(response, 401)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
        error(http.post(CHAT, json=HELLO), 401)
        error(http.post(CHAT, json=HELLO, headers={"Authorization": "Bearer s\xe9cret".encode("latin-1")}), 401)
        assert http.get("/health").status_code == 200
        described = http.get("/openapi.json", headers={"Authorization": "Bearer secret"}).json()["paths"]
        needing = {path for path, methods in described.items() for one in methods.values() if one.get("security")}
        assert needing == set(described) - {"/health"}
        assert http.post(CHAT, json=HELLO, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert running.client(api_key="secret").models.list().data[0].id == running.service.name


def test_only_the_names_of_the_server_are_answered(tiny: minseek.Model) -> None:
    """A page elsewhere whose name leads here (DNS rebinding) still sends that name."""
    with serving(tiny, ServerSettings(hosts=("localhost", "127.0.0.1", "::1"))) as running, running.http() as http:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:80"):
            assert http.get("/health", headers={"Host": host}).status_code == 200
        for host in ("evil.org", "evil.org:8000", "localhost.evil.org", "127.0.0.1.evil.org", "", "[::2]"):
            assert error(http.get("/health", headers={"Host": host}), 403)["code"] == "host_not_allowed"


def test_pages_of_named_origins_may_use_it(tiny: minseek.Model) -> None:
    with serving(tiny, ServerSettings(cors_origins=("https://a.org",), api_key="k")) as running, running.http() as http:
        asking = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
        }
        allowed = http.options(CHAT, headers={"Origin": "https://a.org", **asking})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://a.org"
        granted = {name.strip().lower() for name in allowed.headers["access-control-allow-headers"].split(",")}
        assert {"authorization", "content-type", "x-stainless-lang"} <= granted
        for refused in (
            http.options(CHAT, headers={"Origin": "https://b.org", **asking}),
            http.get("/health", headers={"Origin": "https://b.org"}),
        ):
            assert "access-control-allow-origin" not in refused.headers


def test_every_response_has_the_headers_that_protect_a_page(http: httpx2.Client) -> None:
    for path in ("/health", "/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "server" not in headers
