"""`minseek batch` and `minseek plan`: results and their order, refused requests, and stopped runs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest
import torch

import minseek
from minseek.batch.request_file import RequestFile
from minseek.cli import main
from minseek.engine import Engine
from minseek.protocol.chat_stream import CleanText
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.usefixtures("one_thread")

MACHINE = ["--dtype", "float32", "--device", "cpu"]
EVICTING = ["--kv-budget", "120KB", "--cap", "48", "--block", "16"]  # two slots
Batch = Callable[..., SimpleNamespace]


@pytest.fixture
def command(
    tiny: minseek.Model, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimpleNamespace]:
    """Run `minseek` in this process with a model that is loaded already: exit code, standard output and error."""
    monkeypatch.setattr("minseek.models.load", lambda *_, **__: tiny)

    def run(*args: str) -> SimpleNamespace:
        capfdbinary.readouterr()
        try:
            code = main(args)
        except SystemExit as ended:
            code = ended.code
        out, err = capfdbinary.readouterr()
        return SimpleNamespace(code=code, out=out.decode(), err=err.decode())

    return run


@pytest.fixture
def batch(command: Callable[..., SimpleNamespace], tiny: minseek.Model, tmp_path: Path) -> Batch:
    """`minseek batch` on these lines; what it printed, and the records in the order of the file."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def run(lines: list[Any] | bytes, *args: str) -> SimpleNamespace:
        source.write_bytes(lines if isinstance(lines, bytes) else as_lines(lines))
        ran = command("batch", str(source), str(target), "-m", tiny.name, "--temperature", "0", "--top-p", "1", *args)
        ran.records = read(target) if target.exists() else None
        return ran

    run.path = target  # type: ignore[attr-defined]
    return run


def as_lines(items: list[Any]) -> bytes:
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items)


def read(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    assert not raw or raw.endswith(b"\n")
    return [json.loads(line) for line in raw.splitlines()]


def plain(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"r{n}", "prompt": "word " * (3 + n % 5), **fields} for n in range(count)]


def chat(name: str, **body: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "Why?"}]} | body
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def interrupted_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let Ctrl-C come when so many jobs have finished."""
    real = Engine.run

    def run(engine: Engine, jobs: Any) -> Iterator[Any]:
        for done, job in enumerate(real(engine, jobs)):
            if done == count:
                raise KeyboardInterrupt
            yield job

    monkeypatch.setattr(Engine, "run", run)


def usage(prompt: int, completion: int, reasoning: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def clean(answer: str) -> str:
    """An answer without think tags and surrounding space, as every response has it."""
    return CleanText(("<think>", "</think>")).push(answer, last=True)


# What is written


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
            seen.append((len(read(batch.path)), taken[-1]))  # type: ignore[attr-defined]

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
    for told, thought in zip(ours["thoughts"], result.thoughts, strict=True):
        wanted = (thought.index, thought.length, thought.kept, thought.ended_by, thought.text)
        assert (told["index"], told["tokens"], told["kept"], told["ended_by"], told["text"]) == wanted
    assert ours["usage"]["prompt_tokens"] == result.stats.prompt_tokens
    assert ours["usage"]["completion_tokens"] == result.stats.tokens <= 80
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


# What is refused


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"thinking": {"strategy": "hard"}}, "thinking.strategy", "'hard'"),
        ({"thinking": {"strategy": ["x"]}}, "thinking.strategy", "a list"),
        ({"thinking": {"effort": 1}}, "thinking.effort", "'thinking.effort'"),
        ({"thinking": {"thoughts": "many"}}, "thinking.thoughts", "'many'"),
        ({"thinking": {"thoughts": -1}}, "thinking.thoughts", "not -1"),
        ({"thinking": {"keep": 0}}, "thinking.keep", "not 0"),
        ({"thinking": {"rule": "best"}}, "thinking.rule", "'best'"),
        ({"thinking": {"rule": 3}}, "thinking.rule", "not 3"),
        ({"thinking": {"strategy": "standard", "keep": 2}}, "thinking.keep", "no effect"),
        ({"thinking": {"strategy": "standard", "vote": True}}, "thinking.vote", "no effect"),
        ({"thinking": {"vote": "yes"}}, "thinking.vote", "'yes'"),
        ({"thinking": {"stop_when_stable": 1}}, "thinking.stop_when_stable", "not 1"),
        ({"thinking": {"stop_when_stable": 2}, "max_tokens": 10}, "thinking", "11 answers, one after each thought"),
        ({"thinking": {"vote": True, "thoughts": "unbounded"}}, "thinking.thoughts", "a number of thoughts"),
        ({"thinking": {"budget_tokens": 30}, "reasoning_effort": "none"}, "reasoning_effort", "leave one out"),
        ({"thinking": {"min_thought_tokens": 9, "max_thought_tokens": 8}}, "thinking", "9 and 8"),
        ({"thinking": {}, "prompt": "x" * 400}, "prompt", "and a slot holds 228, of which thinking and answer need"),
        ({"prompt": "x" * 100}, "prompt", "the prompt of 100 tokens and 256 new ones do not fit into a slot of 228"),
        ({"max_tokens": 10**30}, "prompt", "1000000000000000000000000000000 new ones do not fit"),
    ],
)
def test_a_request_that_is_not_supported_is_an_error_record(
    batch: Batch, fields: dict[str, Any], param: str | None, said: str
) -> None:
    wrong = {"id": "w", "prompt": "Why?", **fields}
    body = {name: value for name, value in wrong.items() if name not in ("id", "prompt")}
    messages = [{"role": "user", "content": wrong["prompt"]}]
    ran = batch(
        [wrong, chat("o", messages=messages, **body), *plain(1, max_tokens=3)], "--cap", "100", "--policy", "none"
    )
    records = {record.get("custom_id", record["id"]): record for record in ran.records}
    assert ran.code == 0
    assert records["r0"]["text"]
    assert records["w"]["line"] == 1
    assert records["w"]["error"]["type"] == "invalid_request_error"
    assert records["w"]["error"]["param"] == param
    assert said in records["w"]["error"]["message"]
    assert (records["o"]["line"], records["o"]["response"]) == (2, None)
    assert records["o"]["error"]["code"] == records["w"]["error"]["code"]
    assert "Traceback" not in ran.err
    assert "1 done, 2 failed" in ran.err


def test_thinking_takes_a_question_or_a_conversation(batch: Batch, tiny: minseek.Model) -> None:
    several = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    ends = [*several, {"role": "assistant", "content": "x"}]
    lines = [
        chat("o", messages=several, thinking={"strategy": "min-seek"}),
        chat("s", messages=system, thinking={"thoughts": 0}),
    ]
    ran = batch([*lines, chat("e", messages=ends, thinking={})], "--max-new-tokens", "40", "--temperature", "0")
    records = {record["custom_id"]: record for record in ran.records}
    limits = minseek.Limits(total_tokens=40, answer_tokens=40)
    result = minseek.reason(tiny, several, sampling=minseek.Sampling(temperature=0), limits=limits)
    assert records["o"]["response"]["body"]["choices"][0]["message"]["content"] == clean(result.answer)
    assert records["s"]["response"]["body"]["usage"]["prompt_tokens"] == len("s:s\nu:q\na:") + 2
    assert "user" in records["e"]["error"]["message"]
    ran = batch([{"id": 1, "prompt": " ", "thinking": {}}], "--overwrite")
    assert ran.records[0]["error"]["code"] == "empty_prompt"


def test_a_stop_string_ends_the_answer_behind_thinking(batch: Batch, tiny: minseek.Model) -> None:
    fields = {"max_tokens": 60, "temperature": 1, "seed": 4, "thinking": {"thoughts": 1, "max_thought_tokens": 8}}
    (whole,) = batch([{"id": 1, "prompt": "Why?", **fields}], "--cap", "300").records
    stop = whole["text"][3:5]
    (ended,) = batch([{"id": 1, "prompt": "Why?", "stop": stop, **fields}], "--cap", "300", "--overwrite").records
    assert stop.strip()
    assert ended["text"] == whole["text"].partition(stop)[0].strip()
    assert ended["finish_reason"] == "stop"
    assert ended["reasoning"] == whole["reasoning"]


def test_an_error_while_a_request_runs_is_its_own(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    from minseek.engine import Generation

    real = Generation.next_tokens

    def next_tokens(job: Generation, logits: torch.Tensor) -> Any:
        return real(job, logits * torch.nan if len(job.prompt) == 20 and len(job.tokens) == 3 else logits)

    monkeypatch.setattr(Generation, "next_tokens", next_tokens)
    ran = batch(plain(3, max_tokens=9), *EVICTING)
    failed = [record for record in ran.records if "error" in record]
    assert (ran.code, len(ran.records)) == (0, 3)
    assert [record["id"] for record in failed] == ["r1"]
    assert "not finite" in failed[0]["error"]["message"]


@pytest.mark.parametrize(
    ("args", "value"),
    [
        ("--policy best", "'best'"),
        ("--kv-budget 1KB", "does not hold one slot"),
        ("--kv-budget lots", "'lots'"),
        ("--cap many", "'many'"),
        ("--cap 0", "cap must be 1 or more, not 0"),
        ("--cap 600", "longer than the model's context of 512"),
        ("--block 0", "not 0"),
        ("--block 600", "600"),
        ("--sequences 0", "not 0"),
        ("--max-new-tokens 0", "not 0"),
        ("--temperature -1", "-1"),
        ("--top-p 2", "not 2"),
        ("--top-k 0", "not 0"),
        ("--min-p 2", "not 2"),
        ("--seed -1", "not -1"),
        ("--stop=", "empty"),
        ("--json", "--plan"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(batch: Batch, args: str, value: str) -> None:
    ran = batch([b"nonsense", *plain(2)], *args.split())
    assert (ran.code, ran.out, ran.records) == (2, "", None)
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.startswith("minseek: ")
    assert value in ran.err


def test_slots_that_are_larger_than_the_memory_are_refused(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minseek.models.device.memory_bytes", lambda _: 100_000)
    ran = batch(plain(3), "--kv-budget", "1GB", "--cap", "64")
    assert (ran.code, ran.records) == (2, None)
    assert "100 KB of memory" in ran.err


def test_files_that_cannot_be_used_are_refused(command: Batch, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(as_lines(plain(2)))
    (tmp_path / "notes.txt").write_text("hello\n")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for given, said in (
        ("in.jsonl none/out.jsonl", "there is no directory"),
        ("in.jsonl .", "is a directory"),
        ("in.jsonl in.jsonl", "are the same file"),
        ("in.jsonl notes.txt", "line 1 of"),
        ("notes.txt in.jsonl", "line 1 of"),
        ("none.jsonl out.jsonl", "cannot be read: No such file"),
        (". out.jsonl", "cannot be read: Is a directory"),
    ):
        ran = command("batch", *(str(tmp_path / name) for name in given.split()))
        assert (ran.code, ran.out) == (2, ""), given
        assert said in ran.err
        assert ran.err.count("\n") == 1, ran.err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_whole_lines(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(file: int, data: memoryview) -> int:
        written.append(bytes(data))
        if len(written) <= 2:
            return real(file, data)
        if len(written) == 3:
            return real(file, data[:10])
        raise OSError(28, "No space left on device")

    real = os.write
    monkeypatch.setattr("minseek.batch.result_file.os.write", write)
    ran = batch(plain(5, max_tokens=3), *EVICTING)
    monkeypatch.undo()
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "minseek: No space left on device"
    assert len(ran.records) == 2


# Going on


def test_nothing_is_lost_or_repeated_wherever_a_run_was_stopped(
    batch: Batch, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minseek.batch.results.time.time", lambda: 1.5)
    lines = [b"nonsense", *plain(5, max_tokens=40), plain(1)[0], {"id": "w"}, chat("o", max_tokens=3), chat("p", n=2)]
    path = batch.path  # type: ignore[attr-defined]
    batch(lines, *EVICTING)
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(lines)
    for kept, end in list(enumerate([0, *ends]))[::2]:
        for torn in (0, 1, 30):
            path.write_bytes(whole[: end + torn] if end < len(whole) else whole)
            again = batch(lines, *EVICTING)
            assert again.code == 0
            assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
            assert ("was cut off" in again.err) == (torn > 0 and end < len(whole))
            assert (f"holds {kept} results" in again.err) == (kept > 0)
            done, failed = re.findall(r"(\d+) done, (\d+) failed", again.err)[0]
            assert int(done) + int(failed) == len(lines) - kept


def test_ctrl_c_keeps_finished_results_and_tells_how_to_resume(
    batch: Batch, tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = plain(6, max_tokens=5)
    with monkeypatch.context() as patched:
        interrupted_after(patched, 3)
        stopped = batch(lines, *EVICTING)
    assert stopped.code == 130
    assert len(stopped.records) == 3
    assert "interrupted after 3 of 6 requests" in stopped.err
    assert "the same command goes on from there" in stopped.err
    assert "Traceback" not in stopped.err
    again = batch(lines, *EVICTING)
    assert again.code == 0
    assert again.records[:3] == stopped.records
    assert sorted(record["id"] for record in again.records) == [line["id"] for line in lines]
    names = ", ".join(repr(record["id"]) for record in stopped.records)
    assert f"out.jsonl holds 3 results, skipped: {names}\n" in again.err
    done = batch(lines, *EVICTING)
    assert (done.code, done.records) == (0, again.records)
    assert "'r4' and 1 more" in done.err or "and 1 more" in done.err
    assert "0 done, 0 failed" in done.err
    anew = batch(lines, *EVICTING, "--overwrite", "--max-new-tokens", "3")
    assert len(anew.records) == 6
    assert "skipped" not in anew.err


def test_a_line_that_was_put_right_is_run(batch: Batch) -> None:
    lines: list[Any] = [b"{", *plain(1, max_tokens=2)]
    batch(lines)
    lines[0] = {"id": "new", "prompt": "x", "max_tokens": 2}
    assert [record["id"] for record in batch(lines).records] == [None, "r0", "new"]


# Streams


def test_dashes_are_standard_input_and_output(
    command: Batch, monkeypatch: pytest.MonkeyPatch, tiny: minseek.Model
) -> None:
    for output in ("-", "/dev/stdout"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(as_lines([b"{", *plain(3, max_tokens=3)]))))
        ran = command("batch", "-", output, "-m", tiny.name, "--temperature", "0")
        assert ran.code == 0
        assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [None, "r0", "r1", "r2"]
        assert "3 done, 1 failed" in ran.err
    assert command("batch", "-", "-", "--overwrite").code == 2


def test_files_with_nothing_to_run(batch: Batch) -> None:
    empty = batch(b"\n \n")
    assert (empty.code, empty.records) == (0, [])
    assert "in.jsonl holds no request: write one JSON object a line into it" in empty.err
    bad = batch([b"{", {"id": 1}])
    assert (bad.code, len(bad.records)) == (0, 2)
    assert "0 done, 2 failed" in bad.err
    assert "nothing to plan" in batch([b"{"], "--plan").err


# Plans


def test_the_plan_is_printed_before_the_run_or_instead_of_it(batch: Batch, tiny: minseek.Model) -> None:
    lines = plain(4, max_tokens=180)
    plan = minseek.plan(tiny, kv_budget="1MB", lengths=[210], sequences=4, block=64)
    assert (plan.slots, plan.cap) == (4, 146)
    alone = batch(lines, "--kv-budget", "1MB", "--block", "64", "--plan")
    assert (alone.code, alone.out, alone.err, alone.records) == (0, f"{plan}\n", "", None)
    parsed = json.loads(batch(lines, "--kv-budget", "1MB", "--block", "64", "--plan", "--json").out)
    assert parsed == plan.as_dict()
    assert batch(lines, "--kv-budget", "1MB", "--block", "64").err.startswith(f"{plan}\n")


def test_plan_as_a_command(command: Batch, tiny: minseek.Model, tmp_path: Path) -> None:
    def planned(*args: str) -> dict[str, Any]:
        ran = command("plan", "-m", tiny.name, "--json", *args)
        assert (ran.code, ran.err) == (0, "")
        return dict(json.loads(ran.out))

    budget = ("--kv-budget", "1MB")
    given = planned(*budget, "--cap", "64", "--block", "32", "--policy", "streaming-llm")
    assert given == minseek.plan(tiny, kv_budget="1MB", cap=64, block=32, policy="streaming-llm").as_dict()
    whole = planned(*budget, "--block", "32", "--lengths", "150", "--policy", "none")
    assert (whole["cap"], whole["policy"]) == (118, None)
    assert whole["slots"] == 1_000_000 // whole["slot_bytes"]
    wanted = planned(*budget, "--block", "32", "--lengths", "150", "--sequences", "2")
    assert (wanted["cap"], wanted["slots"]) == (118, 2)
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_lines([b"{", *plain(3), {"id": "long", "prompt": "x" * 200, "max_tokens": 7}]))
    measured = planned(*budget, "--block", "32", "--lengths", str(file), "--max-new-tokens", "9")
    assert (measured["cap"], measured["slots"]) == (207 - 32, 4)
    table = command("plan", "-m", tiny.name, *budget, "--cap", "64")
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
def test_plans_that_cannot_be_are_refused(command: Batch, args: str, value: str) -> None:
    ran = command("plan", "-m", "tiny", *args.split())
    assert (ran.code, ran.out) == (2, "")
    assert value in ran.err
    assert ran.err.count("\n") == 1


# Real processes

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TERM": "xterm-256color",
}


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that hardly ever ends its turn."""
    return save(tmp_path_factory.mktemp("talkative"), "llama", closes=0.0)


def long_requests(folder: Path, tokens: int) -> Path:
    source = folder / "in.jsonl"
    source.write_bytes(as_lines([b"{", *plain(24, max_tokens=tokens, temperature=1, seed=3), plain(1)[0]]))
    return source


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_killed_run_is_resumed(talkative: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, killed, whole = long_requests(tmp_path, 150), tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    flags = ["-m", str(talkative), *MACHINE, *EVICTING]
    process = subprocess.Popen(
        [sys.executable, "-m", "minseek", "batch", str(source), str(killed), *flags],
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    wait_for_lines(killed, 5)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    left = killed.read_bytes().count(b"\n")
    assert 5 <= left < 26
    with killed.open("ab") as stream:
        stream.write(b'{"id": "r9", "text": "half a li')  # as a kill in the middle of a write would leave it
    assert main(["batch", str(source), str(killed), *flags]) == 0
    told = capfd.readouterr().err
    assert f"holds {left} results" in told
    assert "was cut off" in told
    assert main(["batch", str(source), str(whole), *flags]) == 0
    assert sorted(killed.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert len(read(whole)) == 26


def test_ctrl_c_in_a_terminal(talkative: Path, tmp_path: Path) -> None:
    source, target = long_requests(tmp_path, 1500), tmp_path / "out.jsonl"
    flags = ["-m", str(talkative), *MACHINE, *EVICTING]
    seen = io.StringIO()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "minseek", "batch", str(source), str(target), *flags],
        env=ENVIRONMENT,
        timeout=120,
        dimensions=(24, 160),
        encoding="utf-8",
        codec_errors="replace",
    )
    child.logfile_read = seen
    child.expect(r"[3-9] of 26 · 1 failed · 2 of 2 slots in use · prefill [\d,]+ tok/s · decode [\d,]+ tok/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    shown = seen.getvalue()
    assert child.exitstatus == 130
    assert "minseek: interrupted after" in shown
    assert "the same command goes on from there" in shown
    assert "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is back
    assert 2 < len(read(target)) < 26


@pytest.mark.parametrize("times", [1, 2])
def test_results_of_the_interrupted_pass_are_kept(batch: Batch, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    real, before = Engine._pass, signal.signal(signal.SIGINT, signal.default_int_handler)

    def _pass(engine: Engine) -> Any:
        gone = real(engine)
        for _ in range(times if gone else 0):  # Ctrl-C at the very end of the first pass that finishes a request
            os.kill(os.getpid(), signal.SIGINT)
        return gone

    lines = plain(6, max_new_tokens=5)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "_pass", _pass)
            ran = batch(lines, *EVICTING)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ran.code == 130
    if times == 1:
        assert 1 <= len(ran.records) <= 2
        assert f"interrupted after {len(ran.records)} of 6 requests" in ran.err
    else:  # the second one does not wait
        assert ran.records == []
    again = batch(lines, *EVICTING)
    assert again.code == 0
    assert len(again.records) == 6
