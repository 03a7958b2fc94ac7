"""From a question, or a conversation, to the prompt's tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minseek.errors import InputError

_MARK = "\x02minseek\x03"  # nothing a template would change


def render_prompt(tokenizer: Any, question: str, system: str | None = None) -> str:
    """The chat template around a question, up to where the assistant's words begin.

    A model without a template gets the bare question.
    """
    if not question.strip():
        raise InputError("the question is empty: write one, or '-' to read it from standard input")
    messages = [{"role": "system", "content": system}] if system else []
    return render_messages(tokenizer, [*messages, {"role": "user", "content": question}])


def render_messages(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The chat template around a conversation, up to where the assistant's next words begin.

    Some templates ignore ``add_generation_prompt``; then the opening of the assistant's turn is taken from a rendered
    reply.

    Parameters
    ----------
    messages : sequence of mappings
        Each with a ``role`` and a ``content``; the last one is the user's.

    Raises
    ------
    InputError
        If the template refuses the conversation, or if there is none and it is more than a question: a user's message,
        perhaps behind a system message.
    """
    if not tokenizer.chat_template:
        if [message["role"] for message in messages] not in (["user"], ["system", "user"]):
            raise InputError(
                f"the model has no chat template, so {len(messages)} messages cannot be put into a prompt: give one "
                "message of the user, after a system message if there is one"
            )
        return "\n\n".join(message["content"] for message in messages)
    given = [dict(message) for message in messages]

    def render(messages: list[dict[str, str]], **options: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # a template is a program of somebody else's; jinja has its own errors
            raise InputError(f"the model's chat template refuses this conversation: {error}") from error

    prompt = render(given, add_generation_prompt=True)
    if prompt != render(given, add_generation_prompt=False):
        return prompt
    return render([*given, {"role": "assistant", "content": _MARK}]).partition(_MARK)[0]


def template_tail(tokenizer: Any, system: str | None = None) -> str:
    """What the template writes behind the question, whatever the question is."""
    mark = "\x02question\x03"
    return render_prompt(tokenizer, mark, system).rpartition(mark)[2]


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered prompt; special tokens are added only where there is no template that wrote them."""
    return list(tokenizer.encode(text, add_special_tokens=not tokenizer.chat_template))
