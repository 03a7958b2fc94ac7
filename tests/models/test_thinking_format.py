"""Thinking formats: taken from the chat template, overridden, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import minseek
from minseek import InputError
from minseek.models import FORMATS, PLAIN, THINK, ThinkingFormat
from minseek.models.chat.thinking_format import choose_format, is_open
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run import Run
from tests.helpers.loading import load_cpu, refusal
from tests.helpers.tiny_models import OPEN, make_tokenizer, save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("template", "form"), [("opens", "think"), ("leaves", "think"), ("plain", "plain"), ("ignores", "plain")]
)
def test_the_format_is_taken_from_the_template(template: str, form: str) -> None:
    assert choose_format(None, make_tokenizer(template)).name == form


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_a_template_with_a_close_tag_has_its_format(form: ThinkingFormat) -> None:
    tokenizer = make_tokenizer("plain")
    tokenizer.chat_template += f"{{# {form.close} #}}"
    assert choose_format(None, tokenizer) is form


def test_the_format_can_be_overridden(tiny_folders: dict[str, Path]) -> None:
    own = ThinkingFormat("own", "<<", ">>", closing=">>", induce="Hm")
    assert load_cpu(tiny_folders["llama"], thinking="plain").thinking is PLAIN
    assert load_cpu(tiny_folders["llama"], thinking=own).thinking is own


def test_an_unknown_format_is_refused(tiny_folders: dict[str, Path]) -> None:
    text = refusal(tiny_folders["llama"], thinking="nope")
    assert "'nope'" in text
    assert all(name in text for name in FORMATS)


@pytest.mark.parametrize(
    "fields", [("<a>", "", "x", "y"), ("", "</a>", "x", "y"), ("", "", "", "y"), ("", "", "x", "")]
)
def test_a_format_needs_both_tags_or_none_and_its_texts(fields: tuple[str, str, str, str]) -> None:
    with pytest.raises(InputError, match="'own'"):
        ThinkingFormat("own", *fields)


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        ("a:<think>\n", True),
        ("a:<think>", True),
        ("<think>x</think> b <think>\n", True),
        ("a:", False),
        ("a:<think>x</think>", False),
        ("", False),
    ],
)
def test_a_prompt_is_open_when_it_ends_inside_thinking(text: str, opened: bool) -> None:
    assert is_open(text, THINK) is opened
    assert not is_open(text, PLAIN)


@pytest.mark.parametrize("question", ["Why?", "What does <think> mean?", "What does </think> mean?"])
@pytest.mark.parametrize("template", ["opens", "leaves"])
def test_thinking_begins_with_the_tag_whatever_is_asked(tmp_path: Path, template: str, question: str) -> None:
    model = load_cpu(save(tmp_path, "llama", template))
    run = Run(
        model,
        question,
        RunOptions(strategy=minseek.MinSeek(1), sampling=minseek.Sampling(), limits=minseek.Limits(answer_tokens=9)),
    )
    prompt = model.decode(run.prompt)
    assert question in prompt
    assert prompt.rstrip().endswith(f"a:{OPEN}")
