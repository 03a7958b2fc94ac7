"""One parser: the server and batch files accept the same bodies, run them alike, and refuse the others alike."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import minseek
import minseek.protocol.jobs
from minseek.batch import run_file
from minseek.reasoning.options import RunOptions
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.server_settings import ServerSettings
from tests.helpers.serving import Running, serving

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
Bodies = list[tuple[str, dict[str, Any]]]

THINKING: list[dict[str, Any]] = [
    *({"reasoning_effort": name} for name in ("none", "minimal", "low", "medium", "high")),
    *({name: 12} for name in ("thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens")),
    *({"thinking": {"type": kind}} for kind in ("enabled", "disabled")),
    {"thinking": {}},
    {"thinking": {"thoughts": 3, "keep": 2, "rule": "latest", "max_thought_tokens": 8}},
    {"thinking": {"thoughts": 2, "rule": "likeliest"}},
    {"thinking": {"thoughts": 2, "loop_detection": False}},
    {"thinking": {"strategy": "budget-forcing", "thoughts": 2, "budget_tokens": 30}},
    {"thinking": {"strategy": "standard", "answer_tokens": 5}},
    {"thinking": {"thoughts": "unbounded", "answer": "final-thought", "max_thought_tokens": 8}},
    {"thinking": {"thoughts": 3, "vote": True, "max_thought_tokens": 6}},
    {"thinking": {"thoughts": 4, "stop_when_stable": 2}, "max_tokens": 70},
    {"thinking": {"strategy": "fresh", "thoughts": 3, "max_thought_tokens": 6}},
    {"thinking": {"strategy": "fresh", "thoughts": "unbounded", "max_thought_tokens": 6}},
    {"thinking": {"strategy": "fresh", "thoughts": 2, "stop_when_stable": 2}, "temperature": 1, "seed": 4},
    {"thinking": {"thoughts": 2}, "logprobs": True, "top_logprobs": 3},
    {"thinking": {"thoughts": 1}, "logprobs": True, "n": 2, "temperature": 0.8, "seed": 5},
    {"reasoning_effort": "low", "stop": ["a", "e"], "max_tokens": 30},
    {"reasoning_effort": "low", "temperature": 1, "top_p": 0.8, "top_k": 9, "min_p": 0.01, "seed": -3},
    {"reasoning_effort": "medium", "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5},
    {"reasoning_effort": "none", "logit_bias": {"120": 100, "7": -1.5}, "frequency_penalty": None},
]
"""Accepted fields of chats that ask for thinking, or for none."""

ACCEPTED: Bodies = [
    *((CHAT, fields) for fields in THINKING),
    (CHAT, {}),
    (CHAT, {"n": 2, "stream": False, "stream_options": None, "user": "a", "metadata": {"a": 1}, "tools": []}),
    (CHAT, {"max_completion_tokens": 9, "max_tokens": 9, "max_new_tokens": 9, "store": False, "seed": 1}),
    (CHAT, {"logprobs": True, "top_logprobs": 0, "verbosity": "medium", "service_tier": "auto"}),
    (CHAT, {"messages": [{"role": "developer", "content": "brief"}, {"role": "user", "content": "?"}]}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}], "tool_calls": None}]}),
    (CHAT, {"model": None, "temperature": None, "thinking": None, "reasoning_effort": None, "foo": None}),
    (CHAT, {"max_tokens": 60.0, "top_k": -1, "n": 1.0, "seed": 3.0}),
    (CHAT, {"top_k": 0, "repetition_penalty": None, "thinking": {"thoughts": None, "best": None}}),
    (
        CHAT,
        {
            "messages": [
                {"role": "user", "content": "?", "name": "ann", "tool_call_id": None},
                {"role": "assistant", "content": None, "name": None, "refusal": None},
                {"role": "user", "content": [{"type": "text", "text": "?", "cache_control": None}], "name": None},
            ]
        },
    ),
    (COMPLETION, {"prompt": "Hello"}),
    (COMPLETION, {"prompt": "Hello", "logprobs": 2, "n": 2, "temperature": 1, "seed": 2**63 - 1}),
    (COMPLETION, {"prompt": ["Hello", "you"], "stop": "e", "best_of": 1, "echo": False, "suffix": ""}),
    (COMPLETION, {"prompt": [72, 101], "max_completion_tokens": 5}),
    (COMPLETION, {"prompt": "Hello", "presence_penalty": 2, "repetition_penalty": 1.5, "logit_bias": {"72": -100}}),
    (COMPLETION, {"prompt": [[72], [101, 108]], "n": 2, "logprobs": 0}),
]

REFUSED: Bodies = [
    *((CHAT, fields) for fields in (
        {"messages": []}, {"messages": "hello"}, {"messages": ["a"]}, {"messages": [{"role": "user"}]},
        {"messages": [{"role": "tool", "content": "a"}]}, {"messages": [{"role": "user", "content": "  "}]},
        {"messages": [{"role": "assistant", "content": "a"}]}, {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": "a", "names": "b"}]}, {"messages": [{"role": None, "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": "\ud800"}]}, {"messages": [{"role": "user", "content": "x" * 600}]},
        {"model": "other"}, {"model": 5}, {"model": "../x"},
        {"temperature": "1"}, {"temperature": True}, {"temperature": -0.1}, {"temperature": 10**400}, {"top_p": 0},
        {"top_k": -2}, {"top_k": 1.5}, {"min_p": 1.1}, {"seed": 2**63}, {"seed": 1.5}, {"n": 0}, {"n": 9}, {"n": True},
        {"max_tokens": 0}, {"max_tokens": 2.5}, {"max_tokens": True}, {"max_tokens": 3, "max_new_tokens": 4},
        {"max_tokens": 3, "max_completion_tokens": 4}, {"stop": ""}, {"stop": {}}, {"stop": 5}, {"stop": [3]},
        {"stop": ["a", ""]},
        {"logprobs": 3}, {"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21},
        {"stream": "yes"}, {"stream_options": {"include_usage": True}},
        {"tools": [{}]}, {"functions": [{}]}, {"tool_choice": "required"}, {"response_format": {"type": "json_object"}},
        {"logit_bias": {"1": 200}}, {"logit_bias": {"x": 2}}, {"logit_bias": {"99999": 2}}, {"repetition_penalty": 0},
        {"presence_penalty": 2.5}, {"frequency_penalty": "1"}, {"store": True},
        {"modalities": ["audio"]}, {"audio": {}}, {"service_tier": "flex"}, {"temprature": 1},
        {"reasoning_effort": "huge"}, {"thinking_token_budget": -1}, {"thinking": 3}, {"thinking": {"effort": 9}},
        {"thinking_token_budget": 5, "reasoning_budget_tokens": 6},
        {"reasoning_effort": "none", "thinking_token_budget": 5}, {"reasoning_effort": "high", "thinking": {"keep": 2}},
        {"thinking": {"type": "disabled", "thoughts": 5}}, {"thinking": {"type": "on"}},
        {"thinking": {"strategy": "best"}}, {"thinking": {"strategy": ["x"]}}, {"thinking": {"thoughts": "lots"}},
        {"thinking": {"thoughts": -1}}, {"thinking": {"keep": 0}}, {"thinking": {"rule": "best"}},
        {"thinking": {"strategy": "standard", "keep": 2}}, {"thinking": {"strategy": "fresh", "keep": 1}},
        {"thinking": {"strategy": "fresh", "vote": True}}, {"thinking": {"strategy": "fresh", "rule": "longest"}},
        {"thinking": {"strategy": "fresh"}, "max_tokens": 9}, {"thinking": {"stop_when_stable": 1}},
        {"thinking": {"vote": "yes"}},
        {"thinking": {"vote": True, "answer": "final-thought"}}, {"thinking": {"vote": True}, "max_tokens": 10},
        {"thinking": {"min_thought_tokens": 9, "max_thought_tokens": 8}},
        {"thinking": {"thoughts": 500, "keep": 490}, "max_tokens": 5000},
        {"thinking": {"min_thought_tokens": 600}, "max_tokens": 5000},
    )),
    *((COMPLETION, fields) for fields in (
        {}, {"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": ["a", ""]}, {"prompt": ["a", 5]},
        {"prompt": [-1]}, {"prompt": [5, 10**6]}, {"prompt": 5}, {"prompt": None}, {"prompt": "\ud800"},
        {"prompt": "a", "suffix": "b"}, {"prompt": "a", "echo": True}, {"prompt": "a", "best_of": 2},
        {"prompt": "a", "logprobs": 21}, {"prompt": "a", "logprobs": True}, {"prompt": "a", "thinking": {}},
        {"prompt": "a", "messages": []}, {"prompt": "a", "model": "other"}, {"prompt": "a", "max_tokens": 0},
    )),
]  # fmt: skip


def filled(index: int, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A short, greedy body with a text of its own, unless its fields say otherwise."""
    body: dict[str, Any] = {"temperature": 0}
    if not fields.keys() & {"max_tokens", "max_completion_tokens", "max_new_tokens"}:
        body["max_tokens"] = 60
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": f"q{index}"}]
    return body | fields


@pytest.fixture(scope="module")
def running(tiny: minseek.Model) -> Iterator[Running]:
    with serving(tiny, ServerSettings(), slots=4, slot_tokens=512) as server:
        yield server


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[RunOptions]]:
    """The options of every reasoning job that is made, by the last message."""
    made: dict[str, list[RunOptions]] = defaultdict(list)

    def recorded(model: Any, question: Any, options: RunOptions, **rest: Any) -> ThinkingJob:
        made[question[-1]["content"]].append(options)
        return ThinkingJob(model, question, options, **rest)

    monkeypatch.setattr(minseek.protocol.jobs, "ThinkingJob", recorded)
    return made


def sent(running: Running, bodies: Bodies) -> list[dict[str, Any]]:
    with running.http() as http:
        headers = {"Content-Type": "application/json"}
        return [http.post(path, content=json.dumps(body), headers=headers).json() for path, body in bodies]


def batched(running: Running, bodies: Bodies, folder: Path, *, plain: bool = False) -> list[dict[str, Any]]:
    """The records of a batch file, in the slots and with the default sampling of the server."""
    lines = [
        {"id": index, **body} if plain else {"custom_id": str(index), "method": "POST", "url": path, "body": body}
        for index, (path, body) in enumerate(bodies)
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    service = running.service
    summary = run_file(
        service.model,
        *(folder / "in.jsonl", folder / "out.jsonl"),
        plan=service.plan,
        sampling=service.sampling,
    )
    records = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert summary.done + summary.failed == len(bodies)
    return sorted(records, key=lambda record: int(record["id"] if plain else record["custom_id"]))


def without_times(choice: dict[str, Any]) -> dict[str, Any]:
    details = {name: value for name, value in (choice.get("minseek") or {}).items() if "second" not in name}
    return {**choice, "minseek": details}


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_accepted_bodies_are_accepted_by_both_and_run_alike(
    running: Running, options: dict[str, list[RunOptions]], tmp_path: Path
) -> None:
    bodies = [(path, filled(index, path, fields)) for index, (path, fields) in enumerate(ACCEPTED)]
    responses = sent(running, bodies)
    of_server = {text: list(made) for text, made in options.items()}
    options.clear()
    records = batched(running, bodies, tmp_path)
    for index, ((path, body), response, record) in enumerate(zip(bodies, responses, records, strict=True)):
        assert "error" not in response, (body, response)
        assert record["error"] is None, (body, record)
        theirs = record["response"]["body"]
        assert theirs.keys() == response.keys()
        assert theirs["object"] == response["object"]
        assert [choice.keys() for choice in theirs["choices"]] == [choice.keys() for choice in response["choices"]]
        assert theirs["usage"].keys() == response["usage"].keys()
        assert theirs["usage"]["prompt_tokens"] == response["usage"]["prompt_tokens"]
        if path == CHAT and index < len(THINKING):
            made = [replace(one, logprobs=None) for one in of_server[f"q{index}"]]
            assert [replace(one, logprobs=None) for one in options[f"q{index}"]] == made, body
            assert [one.logprobs for one in options[f"q{index}"]] == [one.logprobs for one in of_server[f"q{index}"]]
        same_job = path == COMPLETION or index < len(THINKING)  # other chats are plain generation in a batch
        if same_job and (body["temperature"] == 0 or "seed" in body):
            own = [without_times(choice) for choice in response["choices"]]
            assert [without_times(choice) for choice in theirs["choices"]] == own, body
            assert theirs["usage"] == response["usage"]


@pytest.mark.usefixtures("one_thread")
def test_refused_bodies_are_refused_by_both_with_the_same_words(running: Running, tmp_path: Path) -> None:
    # Without thinking, a batch line that does not fit into a slot has a message of its own: it is plain generation.
    bodies = [
        (path, filled(index, path, fields | ({"reasoning_effort": "low"} if "x" * 600 in json.dumps(fields) else {})))
        for index, (path, fields) in enumerate(REFUSED)
    ]
    for (_, body), response, record in zip(
        bodies, sent(running, bodies), batched(running, bodies, tmp_path), strict=True
    ):
        assert "error" in response, (body, response)
        assert record["error"] is not None, body
        of_server = {name: response["error"][name] for name in ("message", "param", "code")}
        assert record["error"] == of_server, body


@pytest.mark.usefixtures("one_thread")
def test_plain_lines_are_read_by_the_same_parser(running: Running, tmp_path: Path) -> None:
    accepted = [(path, filled(index, path, fields)) for index, (path, fields) in enumerate(ACCEPTED)]
    refused = [
        (path, filled(index, path, fields))
        for index, (path, fields) in enumerate(REFUSED)
        # without a prompt or messages, a plain line is of no kind; with both, or thinking, of another
        if not fields.keys() & {"messages", "prompt"} or (path == COMPLETION and "thinking" not in fields)
        if fields.get("prompt", "") is not None and fields.get("messages", "") != []
    ]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    texts = batched(running, accepted, tmp_path / "a", plain=True)
    for (_, body), record, openai in zip(accepted, texts, batched(running, accepted, tmp_path / "b"), strict=True):
        assert "error" not in record, (body, record)
        choices = record.get("choices", [record])
        theirs = openai["response"]["body"]["choices"]
        assert record["usage"]["prompt_tokens"] == openai["response"]["body"]["usage"]["prompt_tokens"]
        assert len(choices) == len(theirs)
        for choice, other in zip(choices, theirs, strict=True):
            if body["temperature"] == 0 or "seed" in body:
                assert choice["text"] == other.get("text", (other.get("message") or {}).get("content"))
                assert choice["finish_reason"] == other["finish_reason"]
                if body.get("logprobs") not in (None, False):
                    assert choice["logprobs"] == other["logprobs"]
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    wrong = [(path, body) for path, body in refused if "prompt" in body or path == CHAT]
    for (_, body), record, openai in zip(
        wrong, batched(running, wrong, tmp_path / "c", plain=True), batched(running, wrong, tmp_path / "d"), strict=True
    ):
        assert {name: record["error"][name] for name in ("message", "param", "code")} == openai["error"], body


@pytest.mark.parametrize("plain", [True, False])
def test_a_stream_is_refused_in_a_batch(running: Running, tmp_path: Path, plain: bool) -> None:
    (record,) = batched(running, [(CHAT, filled(0, CHAT, {"stream": True}))], tmp_path, plain=plain)
    assert record["error"]["code"] == "unsupported_parameter"
    assert record["error"]["message"].startswith("stream has no effect in a batch file")


def test_a_plain_prompt_with_thinking_is_a_question(running: Running, tmp_path: Path) -> None:
    fields = {"temperature": 0, "max_tokens": 60, "thinking": {"thoughts": 2, "max_thought_tokens": 6}}
    lines = [
        (CHAT, {"prompt": "Why?", **fields}),
        (CHAT, {"messages": [{"role": "user", "content": "Why?"}], **fields}),
    ]
    prompt, messages = batched(running, lines, tmp_path, plain=True)
    assert prompt | {"id": 1} == messages
    assert [thought["index"] for thought in prompt["thoughts"]] == [0, 1, 2]
