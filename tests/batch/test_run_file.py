"""`minseek.batch.run_file`: results, choices, log-probabilities, progress, and a run that is resumed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.batch import BatchProgress, BatchSummary, run_file
from minseek.batch.request_file import RequestFile
from minseek.engine import Engine
from minseek.models import encode_rendered, render_messages
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.usefixtures("one_thread")


def write(folder: Path, lines: list[dict[str, Any]]) -> tuple[Path, Path]:
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "in.jsonl", folder / "out.jsonl"


def read(path: Path) -> dict[Any, dict[str, Any]]:
    return {(record := json.loads(line))["id"]: record for line in path.read_text().splitlines()}


def test_the_result_is_that_of_generate(tiny: minseek.Model, tmp_path: Path) -> None:
    prompts = ["Hello", "word " * 30, "a"]
    files = write(tmp_path, [{"id": index, "prompt": prompt} for index, prompt in enumerate(prompts)])
    plan = minseek.plan(tiny, cap=40, block=16, sequences=2)
    done = run_file(tiny, *files, plan=plan, max_new_tokens=20, sampling=minseek.Sampling(temperature=0))
    assert (done.done, done.failed, done.skipped, done.plan) == (3, 0, 0, plan)
    wanted = minseek.generate(tiny, prompts, plan=plan, max_new_tokens=20)
    assert [read(files[1])[index]["text"] for index in range(3)] == [one.text for one in wanted]


def test_choices_have_seeds_of_their_own_and_log_probabilities(tiny: minseek.Model, tmp_path: Path) -> None:
    body = {"temperature": 1, "seed": 7, "max_tokens": 12}
    files = write(
        tmp_path,
        [
            {"id": "several", "prompt": ["Hello", "you"], "n": 2, "logprobs": 2, **body},
            *({"id": seed, "prompt": "Hello", **body, "seed": seed} for seed in (7, 8)),
            {"id": "chat", "messages": [{"role": "user", "content": "Why?"}], "n": 3, **body, "logprobs": True},
        ],
    )
    assert run_file(tiny, *files).done == 4
    assert run_file(tiny, *files).skipped == 4
    records = read(files[1])
    choices = records["several"]["choices"]
    assert len(choices) == 4
    assert [choice["text"] for choice in choices[:2]] == [records[seed]["text"] for seed in (7, 8)]
    assert records["several"]["usage"]["prompt_tokens"] == len(tiny.encode("Hello")) + len(tiny.encode("you"))
    for choice in choices:
        assert 0 < len(choice["logprobs"]["tokens"]) <= 12
        assert all(value <= 0 for value in choice["logprobs"]["token_logprobs"])
        assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"])
    assert len(records["chat"]["choices"]) == 3
    for choice in records["chat"]["choices"]:
        assert {"text", "finish_reason", "logprobs"} <= choice.keys()


def test_log_probabilities_of_a_chat_are_those_of_its_answer(tiny: minseek.Model, tmp_path: Path) -> None:
    question = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 20}
    files = write(tmp_path, [{"id": 1, **question}, {"id": 2, **question, "logprobs": True, "top_logprobs": 1}])
    run_file(tiny, *files, sampling=minseek.Sampling(temperature=0))
    bare, detailed = read(files[1])[1], read(files[1])[2]
    assert {name: value for name, value in detailed.items() if name not in ("id", "logprobs")} == {
        name: value for name, value in bare.items() if name != "id"
    }
    # the model's own thinking, its tag included, is no part of the answer
    wanted = detailed["usage"]["completion_tokens"] - detailed["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < len(detailed["logprobs"]["content"]) <= wanted
    for token in detailed["logprobs"]["content"]:  # greedy: the most likely one
        assert token["top_logprobs"][0]["logprob"] == token["logprob"]


@pytest.mark.parametrize(("template", "tag"), [("leaves", "<think>"), ("opens", "</think>")])
def test_tags_in_a_question_do_not_open_or_close_thinking(template: str, tag: str, tmp_path: Path) -> None:
    model = minseek.load(str(save(tmp_path / "model", "llama", template, closes=0)), device="cpu", dtype="float32")
    messages = [{"role": "user", "content": f"What does {tag} mean?"}]
    files = write(tmp_path, [{"id": 1, "messages": messages, "max_tokens": 12}])
    run_file(model, *files, sampling=minseek.Sampling(temperature=0))
    prompt = encode_rendered(model.tokenizer, render_messages(model.tokenizer, messages))
    (whole,) = minseek.generate(model, [prompt], max_new_tokens=12)
    assert whole.text.strip()
    assert "think" not in whole.text
    record = read(files[1])[1]
    reasoning, text = (whole.text.strip(), "") if template == "opens" else (None, whole.text)
    assert (record.get("reasoning"), record["text"]) == (reasoning, text)
    assert ("note" in record) == (template == "opens")


def test_progress_and_resuming(tiny: minseek.Model, tmp_path: Path) -> None:
    lines = [*({"id": index, "prompt": "Hello"} for index in range(4)), {"id": "bad"}]
    seen: list[BatchProgress] = []
    files = write(tmp_path, lines)
    done = run_file(tiny, *files, max_new_tokens=3, sequences=2, on_progress=seen.append)
    assert (done.done, done.failed, done.skipped) == (4, 1, 0)
    assert [one.done + one.failed for one in seen] == list(range(6))
    assert {(one.total, one.slots) for one in seen} == {(5, 2)}
    before = files[1].read_bytes()
    again = run_file(tiny, *files, max_new_tokens=3, sequences=2)
    assert (again.done, again.failed, again.skipped) == (0, 0, 5)
    assert files[1].read_bytes() == before
    fresh = run_file(tiny, *files, max_new_tokens=3, overwrite=True)
    assert (fresh.done, fresh.failed, fresh.skipped) == (4, 1, 0)


def test_an_error_in_one_choice_fails_its_request_alone(
    tiny: minseek.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minseek.engine import Generation

    real = Generation.next_tokens

    def next_tokens(job: Generation, logits: Any) -> Any:
        return real(job, logits * float("nan") if len(job.prompt) == 20 and len(job.tokens) == 3 else logits)

    monkeypatch.setattr(Generation, "next_tokens", next_tokens)
    files = write(tmp_path, [{"id": 1, "prompt": ["x" * 20, "y"], "n": 2}, {"id": 2, "prompt": "y"}])
    done = run_file(tiny, *files, max_new_tokens=6)
    assert (done.done, done.failed) == (1, 1)
    assert "not finite" in read(files[1])[1]["error"]["message"]
    assert read(files[1])[2]["text"]


def test_an_interrupt_keeps_what_the_pass_finishes(
    tiny: minseek.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = Engine._pass, signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(engine: Engine) -> Any:
        ended = real(engine)
        if ended:
            os.kill(os.getpid(), signal.SIGINT)
        return ended

    files = write(tmp_path, [{"id": index, "prompt": "Hello"} for index in range(4)])
    try:
        with monkeypatch.context() as patched:
            patched.setattr(Engine, "_pass", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_file(tiny, *files, max_new_tokens=3, sequences=2)
    finally:
        signal.signal(signal.SIGINT, before)
    left = len(read(files[1]))
    assert 1 <= left <= 2
    assert run_file(tiny, *files, max_new_tokens=3, sequences=2).skipped == left


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"plan": 3}, TypeError, "plan must be"),
        ({"max_new_tokens": 0}, minseek.InputError, "not 0"),
        ({"max_new_tokens": 2.5}, TypeError, "not 2.5"),
        ({"stop": "x"}, TypeError, "stop must be"),
        ({"policy": "best"}, minseek.InputError, "'best'"),
        ({"kv_budget": "1KB"}, minseek.InputError, "does not hold one slot"),
        ({"sequences": 0}, minseek.InputError, "not 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    tiny: minseek.Model, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    files = write(tmp_path, [{"id": 1, "prompt": "Hello"}])
    with pytest.raises(error, match=message):
        run_file(tiny, *files, **options)
    assert not files[1].exists()


def test_files_that_cannot_be_used_are_refused(tiny: minseek.Model, tmp_path: Path) -> None:
    files = write(tmp_path, [{"id": 1, "prompt": "Hello"}])
    for wrong, message in (
        ((tmp_path / "none", files[1]), "cannot be read"),
        ((files[0], files[0]), "the same file"),
        ((files[0], tmp_path), "is a directory"),
        ((files[0], tmp_path / "none" / "out"), "there is no directory"),
    ):
        with pytest.raises(minseek.InputError, match=message):
            run_file(tiny, *wrong)
    with pytest.raises(TypeError, match="load it first"):
        run_file("tiny", *files)  # type: ignore[arg-type]


def test_an_empty_file_has_no_plan(tiny: minseek.Model, tmp_path: Path) -> None:
    files = write(tmp_path, [])
    done = run_file(tiny, *files)
    assert (done.done, done.failed, done.skipped, done.plan) == (0, 0, 0, None)
    assert isinstance(done, BatchSummary)
    with RequestFile(str(files[0])) as file:
        assert list(file.lines()) == []
