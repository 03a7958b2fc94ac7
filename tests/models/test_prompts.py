"""Rendering of questions with and without a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from minseek import InputError
from minseek.models import PLAIN
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import as_messages, render_messages, render_prompt
from minseek.protocol.requests import ChatRequest
from minseek.protocol.validation import parse_body
from tests.helpers.loading import greedy_tokens, load_cpu
from tests.helpers.tiny_models import make_tokenizer, save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("opens", "s:Be brief.\nu:Why?\na:<think>\n"),
        ("leaves", "s:Be brief.\nu:Why?\na:"),
        ("plain", "s:Be brief.\nu:Why?\na:"),
        ("ignores", "s:Be brief.<|end|>\nu:Why?<|end|>\na:"),
    ],
)
def test_a_prompt_ends_where_the_assistants_words_begin(template: str, prompt: str) -> None:
    tokenizer = make_tokenizer(template)
    assert render_prompt(tokenizer, "Why?", "Be brief.") == prompt
    assert render_prompt(tokenizer, "Why?") == prompt.partition("\n")[2]


def test_a_template_that_refuses_is_an_input_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(InputError, match="no system messages"):
        render_prompt(tokenizer, "Why?", "Be brief.")


def test_a_name_is_passed_to_the_template() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.name or m.role }}:{{ m.content }}\n{% endfor %}"
    talk = [{"role": "system", "content": "s", "name": None}, {"role": "user", "content": "q", "name": "ann"}]
    assert render_messages(tokenizer, as_messages(talk)).startswith("system:s\nann:q\n")
    body = parse_body(ChatRequest, {"messages": talk})
    assert body.conversation == as_messages(talk) == [{"role": "system", "content": "s"}, talk[1]]
    with pytest.raises(InputError, match="the name in message 0 must be a text, not 3"):
        as_messages([{"role": "user", "content": "q", "name": 3}])


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(InputError, match="empty"):
        render_prompt(make_tokenizer(), question)


def test_without_a_template_the_prompt_is_the_question(tmp_path: Path) -> None:
    folder = save(tmp_path, "llama")
    (folder / "chat_template.jinja").unlink()
    model = load_cpu(folder)
    assert model.tokenizer.chat_template is None
    assert model.thinking is PLAIN
    assert render_prompt(model.tokenizer, "Why?") == "Why?"
    assert render_prompt(model.tokenizer, "Why?", "Be brief.") == "Be brief.\n\nWhy?"
    assert model.decode(encode_rendered(model.tokenizer, "Why?")) == "Why?"
    assert greedy_tokens(model)
