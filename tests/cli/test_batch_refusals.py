"""`minseek batch`: requests, flags and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minseek
from tests.helpers.batch_files import (
    EVICTING,
    Batch,
    as_lines,
    chat,
    clean,
    plain,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
        ({"thinking": {"vote": True, "answer": "final-thought"}}, "thinking.answer", "give direct answers"),
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
    assert ran.code == 3
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


def test_a_stop_string_ends_the_answer_after_thinking(batch: Batch, tiny: minseek.Model) -> None:
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
    assert (ran.code, len(ran.records)) == (3, 3)
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


def test_files_that_cannot_be_used_are_refused(tiny_command: Batch, tmp_path: Path) -> None:
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
        ran = tiny_command("batch", *(str(tmp_path / name) for name in given.split()))
        assert (ran.code, ran.out) == (2, ""), given
        assert said in ran.err
        assert ran.err.count("\n") == 1, ran.err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
