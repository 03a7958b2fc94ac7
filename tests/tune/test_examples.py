"""Training data: reading of examples, their order, and the learning rates of the steps."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import minseek
from minseek.models import render_messages
from minseek.tune.batches import BatchSampler, collate
from minseek.tune.examples import read_examples
from minseek.tune.schedule import learning_rate
from tests.helpers.tiny_models import make_tokenizer
from tests.helpers.tuning import CPU, labels, random_examples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]


# Data


def test_a_text_is_cut_into_whole_blocks(tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "t.txt"
    for size in (1, 5, 9, 10, 19, 20, 21, 57):
        file.write_text("".join(random.Random(size).choices("abcdefgh", k=size)))
        ids = [*tokenizer.encode(file.read_text()), 256]
        whole = read_examples(file, tokenizer, 10)
        got = [token for item in whole.items for token in item.ids.tolist()]
        kept = len(ids) - len(ids) % 10 if len(ids) >= 10 else len(ids)
        assert got == ids[:kept]
        assert whole.left_over == len(ids) - kept
        assert all(len(item.ids) == min(10, len(ids)) and item.loss_mask.all() for item in whole.items)


def trained_text(tmp_path: Path, item: dict[str, Any], template: str = "leaves", length: int = 500) -> tuple[str, str]:
    """A line as a whole, and the part of it in the loss."""
    tokenizer, file = make_tokenizer(template), tmp_path / "d.jsonl"
    file.write_text(json.dumps(item) + "\n\n")
    (found,) = read_examples(file, tokenizer, length).items
    return tokenizer.decode(found.ids.tolist()), tokenizer.decode(found.ids[found.loss_mask].tolist())


def test_the_loss_covers_the_right_part_of_a_line(tmp_path: Path) -> None:
    assert trained_text(tmp_path, {"text": "Hé you"}) == ("Hé you<|end|>", "Hé you<|end|>")
    given = {"prompt": "2+2=", "completion": "4"}
    assert trained_text(tmp_path, given) == ("2+2=4<|end|>", "4<|end|>")
    turns = [("system", "s1"), ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2")]
    talk = {"messages": [{"role": role, "content": content} for role, content in turns]}
    whole = "s:s1\nu:u1\na:a1\nu:u2\na:a2\n"
    for template in ("leaves", "plain", "opens"):
        assert trained_text(tmp_path, talk, template) == (whole, "a1\na2\n")
    marked = "s:s1<|end|>\nu:u1<|end|>\na:a1<|end|>\nu:u2<|end|>\na:a2<|end|>\n"
    assert trained_text(tmp_path, talk, "ignores") == (marked, "a1<|end|>\na2<|end|>\n")
    question = {"messages": [*talk["messages"], {"role": "user", "content": "u3"}]}
    assert trained_text(tmp_path, question) == (whole + "u:u3\n", "a1\na2\n")


REMOVES = (
    "{% for m in messages %}{{ m.role[0] }}:"
    "{{ m.content if m.role == 'user' else m.content.split('</think>')[-1].strip() }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}a:OPEN{% endif %}"
)


@pytest.mark.filterwarnings("default::minseek.MinseekWarning")
@pytest.mark.parametrize("opening", ["<think>\n", ""])
@pytest.mark.parametrize("question", ["2+2", "What is <think>?", "And </think>?"])
@pytest.mark.parametrize("content", ["<think>\n2 and 2</think>\n\n4", "<think>2 and 2</think>4", "2 and 2</think>4 \n"])
def test_the_last_answer_keeps_the_thinking_that_the_template_removes(
    tmp_path: Path, opening: str, question: str, content: str, recwarn: pytest.WarningsRecorder
) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "d.jsonl"
    tokenizer.chat_template = REMOVES.replace("OPEN", opening)
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": content}]
    file.write_text(json.dumps({"messages": talk}) + "\n")
    (found,) = read_examples(file, tokenizer, 500).items
    learned = (content.removeprefix("<think>").lstrip() if opening else content).rstrip()
    assert tokenizer.decode(found.ids[found.loss_mask].tolist()) == learned + "<|end|>"
    prompt = render_messages(tokenizer, talk[:1])  # generation continues this
    assert tokenizer.decode(found.ids.tolist()) == prompt + learned + "<|end|>"
    assert not recwarn
    more = [*talk, {"role": "user", "content": "5"}, {"role": "assistant", "content": content}]
    file.write_text(f"{json.dumps({'messages': more})}\n{json.dumps({'messages': more[:3]})}\n")
    with pytest.warns(minseek.MinseekWarning, match="2 answers in .* without their thinking") as caught:
        found, _ = read_examples(file, tokenizer, 500).items
    assert tokenizer.decode(found.ids[found.loss_mask].tolist()) == "4<|end|>" + learned + "<|end|>"
    assert len(caught) == 1


def test_thinking_in_a_template_that_keeps_it_is_learned_as_it_is(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "<think>2 and 2</think>4"}]
    assert trained_text(tmp_path, {"messages": talk * 2})[1] == "<think>2 and 2</think>4\n" * 2
    assert trained_text(tmp_path, {"messages": talk}, "opens")[1] == "2 and 2</think>4\n"


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    tokenizer, file = make_tokenizer(), tmp_path / "d.jsonl"
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role[0] }}:{% if loop.last %}!{% endif %}{{ m.content }}\n{% endfor %}"
    )
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    file.write_text(json.dumps({"messages": talk}))
    with pytest.raises(minseek.InputError, match=r"line 1 of .*message 2 differently once others follow"):
        read_examples(file, tokenizer, 100)


@pytest.mark.filterwarnings("default::minseek.MinseekWarning")
def test_long_lines_are_cut_with_one_warning(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    lines = [{"text": "x" * n} for n in (5, 20, 30)] + [{"prompt": "p" * 15, "completion": "c"}]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.warns(
        minseek.MinseekWarning, match=r"3 of 4 examples .* longer than 12 .* 1 of these .*left out"
    ) as caught:
        found = read_examples(file, make_tokenizer(), 12).items
    assert [len(item.ids) for item in found] == [6, 12, 12]
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "it has list"),
        ('{"txt": "x"}', "'txt'"),
        ('{"text": 3}', "'text' must be a text, not 3"),
        ('{"prompt": "x"}', "'prompt'"),
        ('{"prompt": "x", "completion": null}', "'completion' must be a text"),
        ('{"messages": []}', "'messages' must be a list"),
        ('{"messages": [{"role": "user"}]}', "'role' and 'content'"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "no token to learn"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "begin with the user's"),
        ('{"text": ""}', "no token to learn"),
        ("[" * 100_000, "is not JSON"),
        ('{"text": "a \\ud83d b"}', "has half a surrogate pair"),
        ('{"prompt": "a", "completion": "\\udc00"}', "has half a surrogate pair"),
        ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "has half a surrogate pair"),
        ('{"\\ud83d": "x"}', "has half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "good"}}\n')
    with pytest.raises(minseek.InputError, match=r"^line 3 of ") as refused:
        read_examples(file, make_tokenizer(), 100)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.txt", b"", "is empty"),
        ("d.txt", b"ab\xff", "is not UTF-8 text: invalid start byte at byte 2"),
        ("d.jsonl", b"\n\n", "holds no example"),
        ("d.jsonl", b"\xff\n", "line 1 of"),
        ("d.csv", b"x", "neither a .txt nor a .jsonl file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(minseek.InputError, match=said):
        read_examples(tmp_path / name, make_tokenizer(), 100)


# BatchSampler


@pytest.mark.parametrize(("count", "batch", "accumulate"), [(7, 2, 2), (3, 1, 8), (12, 3, 2), (1, 2, 1)])
def test_every_epoch_reads_every_example_once(count: int, batch: int, accumulate: int) -> None:
    sampler = BatchSampler(count, batch, accumulate, steps=None, epochs=3, seed=5)
    steps = [sampler.passes(step) for step in range(sampler.steps)]
    flat = [index for step in steps for chosen in step for index in chosen]
    assert [sorted(flat[at : at + count]) for at in range(0, 3 * count, count)] == [list(range(count))] * 3
    assert len(flat) == 3 * count
    assert all(len(step) <= accumulate and all(1 <= len(c) <= batch for c in step) for step in steps)
    again = BatchSampler(count, batch, accumulate, steps=None, epochs=3, seed=5)
    assert again.passes(sampler.steps // 2) == steps[sampler.steps // 2]  # a place needs no history
    if count > 3:
        assert flat[:count] != flat[count : 2 * count]
        assert BatchSampler(count, batch, accumulate, steps=9, epochs=None, seed=6).passes(0) != steps[0]


def test_a_batch_is_padded_and_its_targets_are_the_next_tokens() -> None:
    items = random_examples(5)
    batch = collate(items, CPU)
    ids, wanted = labels(items)
    pairs = {(int(row), int(at) - 1): int(wanted[row, at]) for row, at in (wanted != -100).nonzero() if at > 0}
    width = batch.ids.shape[1]
    got = {
        (int(w) // width, int(w) % width): int(t) for w, t in zip(batch.target_positions, batch.targets, strict=True)
    }
    assert torch.equal(batch.ids, ids)
    assert got == pairs


def test_learning_rates() -> None:
    rates = {name: [learning_rate(2.0, name, step, 10, 4) for step in range(10)] for name in ("constant", "linear")}
    assert rates["constant"] == [0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 2]
    assert rates["linear"][4:] == pytest.approx([2 * (1 - n / 6) for n in range(6)])
    cosine = [learning_rate(1.0, "cosine", step, 8, 0) for step in range(8)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)])
