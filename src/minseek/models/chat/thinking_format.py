"""How a model writes its thinking: between tags, or plainly before its turn ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minseek.errors import InputError


@dataclass(frozen=True)
class ThinkingFormat:
    """Where thinking begins and ends, and what is written to go on or to close it.

    Parameters
    ----------
    name : str
        What users call it.
    open, close : str
        The tags around thinking; both empty for a model that has none: then its thinking ends with its turn.
    closing : str
        Written when minseek closes thinking itself: the close tag, or a cue for the answer.
    induce : str
        Written after a suppressed close, so that another thought begins.
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
    """A format with tags; as in budget forcing (s1), the word that induces a thought is "Wait"."""
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


def choose_format(wanted: str | ThinkingFormat | None, tokenizer: Any) -> ThinkingFormat:
    """The format asked for, or the one whose close tag the chat template mentions, or plain.

    Raises
    ------
    InputError
        If there is no format of that name.
    """
    if isinstance(wanted, ThinkingFormat):
        return wanted
    if wanted is not None:
        check_format_name(wanted)
        return FORMATS[wanted]
    template = tokenizer.chat_template or ""
    if isinstance(template, dict):
        template = "".join(template.values())
    return next((f for f in FORMATS.values() if f.close and f.close in template), PLAIN)


def is_open(text: str, form: ThinkingFormat) -> bool:
    """Whether a prompt ends inside thinking: some templates open the tag themselves."""
    return bool(form.open) and text.rfind(form.open) > text.rfind(form.close)
