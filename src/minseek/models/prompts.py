"""From a question to the prompt's tokens."""

from __future__ import annotations

from typing import Any

from minseek.errors import InputError

_MARK = "\x02minseek\x03"  # nothing a template would change


def render_prompt(tokenizer: Any, question: str, system: str | None = None) -> str:
    """The chat template around a question, up to where the assistant's words begin.

    Some templates ignore ``add_generation_prompt``; then the opening of the assistant's turn is taken from a rendered
    reply. A model without a template gets the bare question.
    """
    if not question.strip():
        raise InputError("the question is empty: write one, or '-' to read it from standard input")
    if not tokenizer.chat_template:
        return f"{system}\n\n{question}" if system else question
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})

    def render(messages: list[dict[str, str]], **options: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # a template is a program of somebody else's; jinja has its own errors
            raise InputError(f"the model's chat template refuses this conversation: {error}") from error

    prompt = render(messages, add_generation_prompt=True)
    if prompt != render(messages, add_generation_prompt=False):
        return prompt
    return render([*messages, {"role": "assistant", "content": _MARK}]).partition(_MARK)[0]


def template_tail(tokenizer: Any, system: str | None = None) -> str:
    """What the template writes behind the question, whatever the question is."""
    mark = "\x02question\x03"
    return render_prompt(tokenizer, mark, system).rpartition(mark)[2]


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered prompt; special tokens are added only where there is no template that wrote them."""
    return list(tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template))
