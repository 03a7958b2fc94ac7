"""Conversations as training text: what of a rendered conversation the model is to learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from minseek.errors import InputError
from minseek.models.chat.encoding import encode, encode_continuation
from minseek.models.chat.prompts import render_messages, template_tail
from minseek.models.chat.thinking_format import ThinkingFormat, choose_format, is_open

_MARK = "\x02answer\x03"  # nothing a template would change


@dataclass
class ConversationText:
    """A rendered conversation in pieces.

    Attributes
    ----------
    pieces : list of (str, bool)
        Consecutive texts, each with True if it counts in the loss.
    num_thoughtless : int
        Answers whose thinking the chat template leaves out.
    """

    pieces: list[tuple[str, bool]] = field(default_factory=list)
    num_thoughtless: int = 0

    def encode(self, tokenizer: Any) -> list[tuple[list[int], bool]]:
        """Tokens of each piece; none spans two pieces."""
        encoded, before = list[tuple[list[int], bool]](), ""
        for text, has_loss in self.pieces:
            tokens = encode_continuation(tokenizer, text, before=before) if before else encode(tokenizer, text)
            encoded.append((tokens, has_loss))
            before += text
        return encoded


def read_conversation(messages: Any, tokenizer: Any) -> ConversationText:
    """Render a conversation; each turn of the assistant begins where generation would begin.

    Many templates leave the thinking out of finished turns. The last answer keeps it, as the model generates it; it is
    lost from answers before, which the model reads without it, too.

    Raises
    ------
    InputError
        If `messages` is no conversation, the template refuses it, or it writes a turn differently once others follow.
    """
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) and set(m) == {"role", "content"} for m in messages)
        or not all(isinstance(value, str) for m in messages for value in m.values())
    ):
        raise InputError("'messages' must be a list of objects with the texts 'role' and 'content'")
    if not tokenizer.chat_template:
        raise InputError("the model has no chat template: give 'prompt' and 'completion' instead of 'messages'")
    form, whole = choose_format(None, tokenizer), _render(tokenizer, messages)
    found, previous_end = ConversationText(), 0
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        if index == 0:
            raise InputError("the first message is the assistant's: begin with the user's")
        opened = render_messages(tokenizer, messages[:index])
        prefix = _render(tokenizer, messages[: index + 1])
        end = len(prefix) if whole.startswith(prefix) else -1
        # A template may open thinking where generation begins, and write a finished turn without it.
        start = next((i for i, (a, b) in enumerate(zip(opened, whole, strict=False)) if a != b), len(opened))
        if start < max(previous_end, len(_render(tokenizer, messages[:index]))) or end < start:
            raise InputError(
                f"the chat template writes message {index + 1} differently once others follow: give one example for "
                "each turn of the assistant, and end it there"
            )
        if _lost_thinking(message["content"], whole[start:end], form):
            if index == len(messages) - 1:
                answer = _with_thinking(tokenizer, messages, form)
                found.pieces += [(opened[previous_end:], False), (answer, True)]
                return found
            found.num_thoughtless += 1
        found.pieces += [(whole[previous_end:start], False), (whole[start:end], True)]
        previous_end = end
    found.pieces.append((whole[previous_end:], False))
    return found


def _lost_thinking(content: str, turn: str, form: ThinkingFormat) -> bool:
    """True if an answer has thinking and the turn that the template makes of it has none."""
    thinking, tag, _ = content.partition(form.close) if form.close else ("", "", "")
    return bool(tag and thinking.replace(form.open, "").strip()) and form.close not in turn


def _with_thinking(tokenizer: Any, messages: list[dict[str, str]], form: ThinkingFormat) -> str:
    """The last answer with its thinking, as it continues the prompt, up to the end of the turn."""
    answer = messages[-1]["content"]
    if is_open(template_tail(tokenizer, messages[:-1]), form):
        answer = answer.lstrip().removeprefix(form.open).lstrip()
    marked = _render(tokenizer, [*messages[:-1], {"role": "assistant", "content": f"{_MARK} "}])
    end = marked.rpartition(_MARK)[2]
    return answer + end[1:] if end.startswith(" ") else answer.rstrip() + end  # most templates strip an answer


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # a template is a program and may raise anything
        raise InputError(f"the model's chat template refuses this conversation: {error}") from error
