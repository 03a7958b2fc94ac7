"""Formats of a model's thinking: between tags, or plain text before the end of its turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minseek.errors import InputError


@dataclass(frozen=True)
class ThinkingFormat:
    """Tags around thinking, and the texts that continue or close it.

    Parameters
    ----------
    name : str
        Name for users.
    open, close : str
        Tags around thinking; both empty for a model without tags, whose thinking ends with its turn.
    closing : str
        Text that closes thinking when minseek ends it: the close tag, or a cue for the answer.
    induce : str
        Text that replaces a suppressed close and begins another thought.
    """

    name: str
    open: str
    close: str
    closing: str
    induce: str

    def __post_init__(self) -> None:
        if bool(self.open) != bool(self.close):
            raise InputError(f"the format {self.name!r} needs both tags or none, not {self.open!r} and {self.close!r}")
        for field in ("closing", "induce"):
            if not getattr(self, field):
                raise InputError(f"the format {self.name!r} needs a text for {field!r}, not an empty one")


def tagged(name: str, open: str, close: str) -> ThinkingFormat:
    """A format with tags; as in budget forcing (s1), "Wait" induces another thought."""
    return ThinkingFormat(name, open, close, closing=close, induce="Wait")


PLAIN = ThinkingFormat("plain", open="", close="", closing="\n\nFinal answer:", induce="\n\nWait,")
THINK = tagged("think", "<think>", "</think>")
FORMATS = {
    f.name: f
    for f in (
        THINK,
        tagged("thinking", "<thinking>", "</thinking>"),
        tagged("thought", "<thought>", "</thought>"),
        tagged("reasoning", "<reasoning>", "</reasoning>"),
        tagged("bracket-think", "[THINK]", "[/THINK]"),
        PLAIN,
    )
}


def check_format_name(name: str) -> None:
    """Refuse a format that is not in `FORMATS`."""
    if name not in FORMATS:
        raise InputError(f"unknown thinking format {name!r}: choose {', '.join(FORMATS)}")


def choose_format(requested: str | ThinkingFormat | None, tokenizer: Any) -> ThinkingFormat:
    """The requested format, else the one whose close tag is in the chat template, else plain.

    Raises
    ------
    InputError
        If there is no format of that name.
    """
    if isinstance(requested, ThinkingFormat):
        return requested
    if requested is not None:
        check_format_name(requested)
        return FORMATS[requested]
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = "".join(template.values())
    return next((f for f in FORMATS.values() if f.close and f.close in template), PLAIN)


def is_open(text: str, form: ThinkingFormat) -> bool:
    """True if a prompt ends inside thinking, as some templates open the tag themselves."""
    return bool(form.open) and text.rfind(form.open) > text.rfind(form.close)
