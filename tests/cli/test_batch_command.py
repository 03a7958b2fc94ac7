"""`minseek batch` and `minseek plan`: results and their order, refused requests, and stopped runs."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.batch.request_file import RequestFile
from minseek.engine import Engine
from tests.helpers.batch_files import (
    EVICTING,
    Batch,
    as_lines,
    chat,
    clean,
    plain,
    read_records,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def usage(prompt: int, completion: int, reasoning: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


# Results


def test_results_equal_generate(batch: Batch, tiny: minseek.Model) -> None:
    lines = plain(9, max_new_tokens=20)
    ran = batch(lines, *EVICTING)
    plan = minseek.plan(tiny, kv_budget="120KB", cap=48, block=16)
    wanted = minseek.generate(tiny, [line["prompt"] for line in lines], plan=plan, max_new_tokens=20)
    assert ran.code == 0, ran.err
    assert {record["id"]: record for record in ran.records} == {
        line["id"]: {
            "id": line["id"],
            "text": one.text,
            "finish_reason": one.finish_reason,
            "usage": usage(one.stats.prompt_tokens, one.stats.new_tokens),
        }
        for line, one in zip(lines, wanted, strict=True)
    }


def test_sampling_stop_and_limits_are_each_requests_own(batch: Batch, tiny: minseek.Model) -> None:
    own = {"temperature": 1, "top_p": 0.9, "top_k": 30, "min_p": 0.01, "seed": 4, "max_tokens": 30}
    lines = [{"id": 1, "prompt": "Hello"}, {"id": 2, "prompt": "Hello", **own}]
    ran = batch(lines, "--temperature", "0.7", "--seed", "2", "--max-new-tokens", "12")
    texts = {record["id"]: record["text"] for record in ran.records}
    first = minseek.Sampling(temperature=0.7, top_p=1, seed=2)
    second = minseek.Sampling(temperature=1, top_p=0.9, top_k=30, min_p=0.01, seed=4)
    assert texts[1] == minseek.generate(tiny, ["Hello"], max_new_tokens=12, sampling=first)[0].text
    assert texts[2] == minseek.generate(tiny, ["Hello"], max_new_tokens=30, sampling=second)[0].text
    stop = texts[1][4:6]
    stopped = batch(
        lines, "--temperature", "0.7", "--seed", "2", "--stop", stop, "--stop", "zzz", "--overwrite"
    ).records
    (record,) = (record for record in stopped if record["id"] == 1)
    assert (record["text"], record["finish_reason"]) == (texts[1][: texts[1].index(stop)], "stop")


def test_a_stop_at_the_very_beginning_leaves_nothing(batch: Batch) -> None:
    (whole,) = batch(plain(1, max_tokens=5)).records
    (stopped,) = batch(plain(1, max_tokens=5, stop=whole["text"][0]), "--overwrite").records
    assert (stopped["text"], stopped["finish_reason"]) == ("", "stop")


def test_lines_come_as_requests_finish_and_are_read_as_slots_become_free(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, seen = [], []
    real_lines, real_run = RequestFile.lines, Engine.run

    def lines(file: RequestFile) -> Iterator[bytes]:
        taken.append(0)  # a pass over the file
        for line in real_lines(file):
            taken[-1] += 1
            yield line

    def run(engine: Engine, jobs: Any) -> Iterator[Any]:
        for job in real_run(engine, jobs):
            yield job
            seen.append((len(read_records(batch.path)), taken[-1]))  # type: ignore[attr-defined]

    monkeypatch.setattr(RequestFile, "lines", lines)
    monkeypatch.setattr(Engine, "run", run)
    requests = plain(6, max_tokens=2)
    requests[0]["max_tokens"] = 40
    ran = batch([b"nonsense", *requests], *EVICTING)
    assert [record["id"] for record in ran.records] == [None, "r1", "r2", "r3", "r4", "r5", "r0"]
    assert [written for written, _ in seen] == [2, 3, 4, 5, 6, 7]
    assert [lines for _, lines in seen[:3]] == [3, 4, 5]
    assert taken[0] == 7


def test_chat_completions(batch: Batch, tiny: minseek.Model) -> None:
    (record,) = batch([chat("c", max_tokens=20)]).records
    (one,) = minseek.generate(tiny, ["u:Why?\na:<think>\n"], max_new_tokens=20)
    reasoning, _, answer = one.text.partition("</think>")
    body = record["response"].pop("body")
    created = body.pop("created")
    assert abs(created - time.time()) < 60
    message = {"role": "assistant", "content": answer.strip()}
    message |= {"reasoning_content": reasoning.strip(), "reasoning": reasoning.strip(), "refusal": None}
    choice = {"index": 0, "finish_reason": one.finish_reason, "logprobs": None, "message": message, "minseek": None}
    closed = one.tokens.index(258) + 1  # the tag is one token
    assert record == {
        "id": "batch_req_1",
        "custom_id": "c",
        "response": {"status_code": 200, "request_id": "req_1"},
        "error": None,
    }
    assert body == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": Path(tiny.name).name,
        "choices": [choice],
        "usage": usage(one.stats.prompt_tokens, 20, closed),
        "minseek": None,
    }


def test_text_completions(batch: Batch, tiny: minseek.Model) -> None:
    line = chat("c") | {"url": "/v1/completions", "body": {"prompt": "Hello", "max_tokens": 4, "n": 1}}
    (record,) = batch([line]).records
    (one,) = minseek.generate(tiny, ["Hello"], max_new_tokens=4)
    body = record["response"]["body"]
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "finish_reason": "length", "logprobs": None, "text": one.text}]
    assert body["usage"] == usage(5, 4)


@pytest.mark.parametrize(
    ("thinking", "strategy"),
    [
        ({"thoughts": 3, "keep": 2, "rule": "latest"}, minseek.MinSeek(3, keep=2, rule="latest")),
        (
            {"strategy": "min-seek", "thoughts": 2, "answer": "final-thought"},
            minseek.MinSeek(2, answer="final-thought"),
        ),
        ({"strategy": "budget-forcing", "thoughts": 2}, minseek.BudgetForcing(2)),
        ({"strategy": "standard"}, minseek.Standard()),
        ({"thoughts": "unbounded"}, minseek.MinSeek(None)),
    ],
)
def test_thinking_equals_reason(
    batch: Batch, tiny: minseek.Model, thinking: dict[str, Any], strategy: minseek.Strategy
) -> None:
    thinking = thinking | {"max_thought_tokens": 8}
    fields = {"max_tokens": 80, "temperature": 1, "seed": 0, "thinking": thinking}
    result = minseek.reason(
        tiny,
        "Why?",
        strategy=strategy,
        sampling=minseek.Sampling(temperature=1, top_p=1, seed=0),
        limits=minseek.Limits(max_thought_tokens=8, total_tokens=80, answer_tokens=80),
    )
    ran = batch([{"id": "t", "prompt": "Why?", **fields}, chat("c", **fields), *plain(2)], "--cap", "300")
    records = {record.get("custom_id", record["id"]): record for record in ran.records}
    ours, openai = records["t"], records["c"]["response"]["body"]
    assert ours["text"] == openai["choices"][0]["message"]["content"] == clean(result.answer)
    assert ours["thoughts"] == openai["minseek"]["thoughts"] == openai["choices"][0]["minseek"]["thoughts"]
    for record, thought in zip(ours["thoughts"], result.thoughts, strict=True):
        wanted = (thought.index, thought.length, thought.kept, thought.ended_by, thought.text)
        assert (record["index"], record["tokens"], record["kept"], record["ended_by"], record["text"]) == wanted
    assert ours["usage"]["prompt_tokens"] == result.stats.prompt_tokens
    assert ours["usage"]["completion_tokens"] == result.stats.tokens <= 80
    assert ours["kv_bytes_peak"] == openai["minseek"]["kv_bytes_peak"] == result.stats.kv_bytes_peak
    slot = minseek.plan(tiny, cap=300, block=128).slot
    assert ours["kv_bytes_allocated"] == openai["minseek"]["kv_bytes_allocated"] == slot.nbytes
    for thought in result.thoughts:
        assert thought.text.strip("\n") in ours["reasoning"]
    assert openai["choices"][0]["message"]["reasoning"] == ours["reasoning"]
    assert openai["usage"]["completion_tokens_details"] == {"reasoning_tokens": result.stats.thinking_tokens}


def test_thinking_that_votes_equals_reason(batch: Batch, tiny: minseek.Model) -> None:
    bounds = {"max_thought_tokens": 8, "answer_tokens": 5}
    thinking = {"thoughts": 4, "vote": True, "budget_tokens": 60, **bounds}
    result = minseek.reason(
        tiny,
        "Why?",
        strategy=minseek.MinSeek(4, vote=True),
        sampling=minseek.Sampling(temperature=1, top_p=1, seed=0),
        limits=minseek.Limits(thinking_budget=60, **bounds),
    )
    fields = {"temperature": 1, "seed": 0, "thinking": thinking}
    (record,) = batch([{"id": "t", "prompt": "Why?", **fields}], "--cap", "300").records
    assert record["text"] == clean(result.answer)
    assert record["usage"]["completion_tokens"] == result.stats.tokens > result.stats.thinking_tokens + 5


def test_a_thinking_request_without_a_limit_thinks_as_long_as_its_slot_allows(batch: Batch) -> None:
    thinking = {"strategy": "budget-forcing", "thoughts": "unbounded"}
    (record,) = batch([{"id": 1, "prompt": "Why?", "thinking": thinking}], "--cap", "100").records
    usage = record["usage"]
    assert record["text"]
    assert 150 < usage["prompt_tokens"] + usage["completion_tokens"] <= 228


# Streams


def test_dashes_are_standard_input_and_output(
    tiny_command: Batch, monkeypatch: pytest.MonkeyPatch, tiny: minseek.Model
) -> None:
    for output in ("-", "/dev/stdout"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(as_lines([b"{", *plain(3, max_tokens=3)]))))
        ran = tiny_command("batch", "-", output, "-m", tiny.name, "--temperature", "0")
        assert ran.code == 3
        assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [None, "r0", "r1", "r2"]
        assert "3 done, 1 failed" in ran.err
    assert tiny_command("batch", "-", "-", "--overwrite").code == 2


def test_files_with_nothing_to_run(batch: Batch) -> None:
    empty = batch(b"\n \n")
    assert (empty.code, empty.records) == (0, [])
    assert "in.jsonl holds no request: write one JSON object a line into it" in empty.err
    bad = batch([b"{", {"id": 1}])
    assert (bad.code, len(bad.records)) == (2, 2)
    assert "0 done, 2 failed" in bad.err
    assert "nothing to plan" in batch([b"{"], "--plan").err


# Plans


def test_the_plan_is_printed_before_the_run_or_instead_of_it(batch: Batch, tiny: minseek.Model) -> None:
    lines = plain(4, max_tokens=180)
    plan = minseek.plan(tiny, kv_budget="1MB", lengths=[210], sequences=4, block=64)
    assert (plan.slots, plan.cap) == (4, 146)
    alone = batch(lines, "--kv-budget", "1MB", "--block", "64", "--plan")
    assert (alone.code, alone.err, alone.records) == (0, "", None)
    assert without_process(alone.out) == without_process(f"{plan}\n")
    parsed = json.loads(batch(lines, "--kv-budget", "1MB", "--block", "64", "--plan", "--json").out)
    assert parsed == replace(plan, interpreter_bytes=parsed["interpreter_bytes"]).as_dict()
    printed = batch(lines, "--kv-budget", "1MB", "--block", "64").err
    assert without_process(printed).startswith(without_process(str(plan)))


def without_process(plan: str) -> str:
    """A printed plan without what is measured: the process and the sum."""
    return "\n".join(line for line in plan.splitlines() if not line.startswith(("process", "in all")))


def test_plan_as_a_command(tiny_command: Batch, tiny: minseek.Model, tmp_path: Path) -> None:
    def planned(*args: str) -> dict[str, Any]:
        ran = tiny_command("plan", "-m", tiny.name, "--json", *args)
        assert (ran.code, ran.err) == (0, "")
        return dict(json.loads(ran.out))

    budget = ("--kv-budget", "1MB")
    given = planned(*budget, "--cap", "64", "--block", "32", "--policy", "streaming-llm")
    plan = minseek.plan(tiny, kv_budget="1MB", cap=64, block=32, policy="streaming-llm")
    assert given == replace(plan, interpreter_bytes=given["interpreter_bytes"]).as_dict()
    whole = planned(*budget, "--block", "32", "--lengths", "150", "--policy", "none")
    assert (whole["cap"], whole["policy"]) == (118, None)
    assert whole["slots"] == 1_000_000 // whole["slot_bytes"]
    wanted = planned(*budget, "--block", "32", "--lengths", "150", "--sequences", "2")
    assert (wanted["cap"], wanted["slots"]) == (118, 2)
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_lines([b"{", *plain(3), {"id": "long", "prompt": "x" * 200, "max_tokens": 7}]))
    measured = planned(*budget, "--block", "32", "--lengths", str(file), "--max-new-tokens", "9")
    assert (measured["cap"], measured["slots"]) == (207 - 32, 4)
    table = tiny_command("plan", "-m", tiny.name, *budget, "--cap", "64")
    assert table.out == f"{minseek.plan(tiny, kv_budget='1MB', cap=64)}\n"


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ("--lengths nowhere.jsonl", "nowhere.jsonl cannot be read"),
        ("--lengths 0", "not 0"),
        ("--kv-budget 1KB", "does not hold one slot"),
        ("--policy best", "'best'"),
        ("--cap x", "'x'"),
        ("--max-new-tokens 3", "no effect"),
    ],
)
def test_plans_that_cannot_be_are_refused(tiny_command: Batch, args: str, value: str) -> None:
    ran = tiny_command("plan", "-m", "tiny", *args.split())
    assert (ran.code, ran.out) == (2, "")
    assert value in ran.err
    assert ran.err.count("\n") == 1
