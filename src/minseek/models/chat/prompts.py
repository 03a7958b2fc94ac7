"""Conversion of a question or a conversation to the text of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minseek.errors import InputError

_MARK = "\x02minseek\x03"  # nothing a template would change
_ROLES = ("system", "user", "assistant")

Question = str | Sequence[Mapping[str, str]]
"""A text, or a conversation: messages with a role and a content, the last one the user's."""


def as_messages(question: Question, system: str | None = None) -> list[dict[str, str]]:
    """Convert a question to a conversation and check its messages.

    Parameters
    ----------
    question : str or sequence of mappings
        A text, or messages, of which only ``role``, ``content`` and, for templates that show it, ``name`` are used.
    system : str, optional
        System message, only with a text.

    Raises
    ------
    TypeError
        If the question is neither.
    InputError
        If a message has no valid role or content, if the last one is not the user's or is empty, or if `system` is
        given with messages.
    """
    if isinstance(question, str):
        if not question.strip():
            raise InputError("the question is empty: write one, or '-' to read it from standard input")
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": question}]
    if not isinstance(question, Sequence) or isinstance(question, (bytes, bytearray)):
        raise TypeError(f"a question is a string or a sequence of messages, not {type(question).__name__}")
    if system:
        raise InputError("system has no effect with messages: put it before them as a message of its own")
    messages = []
    for index, message in enumerate(question):
        if not isinstance(message, Mapping):
            raise InputError(f"message {index} must have a role and a content, and is {message!r:.80}")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise InputError(f"the role of message {index} must be one of {', '.join(_ROLES)}, not {role!r:.80}")
        if not isinstance(content, str):
            raise InputError(f"the content of message {index} must be a text, not {content!r:.80}")
        name = message.get("name")
        if not isinstance(name, str | None):
            raise InputError(f"the name in message {index} must be a text, not {name!r:.80}")
        messages.append({"role": role, "content": content, **({} if name is None else {"name": name})})
    if not messages:
        raise InputError("there are no messages: give at least one, the user's")
    if messages[-1]["role"] != "user":
        raise InputError(f"the last message must be the user's, and its role is {messages[-1]['role']!r}")
    if not messages[-1]["content"].strip():
        raise InputError("the last message is empty: there is nothing to answer")
    return messages


def render_prompt(tokenizer: Any, question: str, system: str | None = None) -> str:
    """Render a question with the chat template, up to the beginning of the assistant's reply.

    A model without a template gets the bare question.
    """
    return render_messages(tokenizer, as_messages(question, system))


def render_messages(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Render a conversation with the chat template, up to the beginning of the assistant's reply.

    For templates that ignore ``add_generation_prompt``, the opening of the assistant's turn is taken from a rendered
    reply.

    Parameters
    ----------
    messages : sequence of mappings
        Each with a ``role`` and a ``content``; the last one is the user's.

    Raises
    ------
    InputError
        If the template refuses the conversation, or if there is no template and the conversation is more than one
        user message, optionally after a system message.
    """
    if not tokenizer.chat_template:
        if [message["role"] for message in messages] not in (["user"], ["system", "user"]):
            raise InputError(
                f"the model has no chat template, so {len(messages)} messages cannot be put into a prompt: give one "
                "message of the user, after a system message if there is one"
            )
        return "\n\n".join(message["content"] for message in messages)
    plain = [dict(message) for message in messages]

    def render(messages: list[dict[str, str]], **options: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
        except Exception as error:  # templates are third-party programs: jinja raises its own errors
            raise InputError(f"the model's chat template refuses this conversation: {error}") from error

    prompt = render(plain, add_generation_prompt=True)
    if prompt != render(plain, add_generation_prompt=False):
        return prompt
    return render([*plain, {"role": "assistant", "content": _MARK}]).partition(_MARK)[0]


def template_tail(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Text that the template writes after the last message's content."""
    mark = "\x02question\x03"
    return render_messages(tokenizer, [*messages[:-1], {"role": "user", "content": mark}]).rpartition(mark)[2]
