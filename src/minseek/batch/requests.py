"""A line of a batch file: a request, or why it is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from minseek.decode import Sampling
from minseek.protocol.fields import (
    LIMIT_NAMES,
    SAMPLING_NAMES,
    FieldError,
    as_object,
    needed,
    parse_max_tokens,
    parse_object,
    parse_stop,
    parse_str,
    refuse_unknown,
    sampling_of,
    shown,
)

DEFAULT_NEW_TOKENS = 256
"""Tokens that a request writes at most where neither it nor the command says how many."""
Form = Literal["plain", "chat", "completion"]
_URLS: dict[str, Form] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_ROLES = ("system", "user", "assistant")
_SHARED = ("model", "stop", "thinking", *LIMIT_NAMES, *SAMPLING_NAMES)


@dataclass(frozen=True)
class Defaults:
    """What holds for requests that do not say otherwise.

    Attributes
    ----------
    sampling : Sampling
    max_new_tokens : int or None
    stop : tuple of str
    model : str
        The model's name: a request may name it, and no other.
    """

    sampling: Sampling
    max_new_tokens: int | None
    stop: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class Request:
    """What a line asks for.

    Attributes
    ----------
    line : int
        Its number in the file, from 1.
    id : str or int
        Its own name for itself (``custom_id`` in OpenAI's form).
    form : {"plain", "chat", "completion"}
        Ours, or OpenAI's two.
    prompt : str or None
        A text that is continued as it stands.
    messages : tuple of dict
        A conversation, where there is no prompt; each has a role and a content, and the last is the user's.
    max_new_tokens : int or None
        Tokens to write at most; None where nobody has said it.
    thinking : dict or None
        How to think, unread: strategies belong to another room.
    """

    line: int
    id: str | int
    form: Form
    prompt: str | None
    messages: tuple[dict[str, str], ...]
    sampling: Sampling
    max_new_tokens: int | None
    stop: tuple[str, ...]
    thinking: Mapping[str, Any] | None

    def reject(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> InvalidRequest:
        """Why it cannot be honoured after all."""
        return InvalidRequest(self.line, self.id, message, param, code, openai=self.form != "plain")


@dataclass(frozen=True)
class InvalidRequest:
    """Why a line is not run; `id` is None where the line has none that can be read."""

    line: int
    id: str | int | None
    message: str
    param: str | None = None
    code: str = "invalid_value"
    openai: bool = False


def read_requests(lines: Iterable[bytes], defaults: Defaults) -> Iterator[Request | InvalidRequest]:
    """What each line that is not blank asks for, one line at a time; an id is good for one line."""
    first_lines: dict[str | int, int] = {}
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        item = parse_line(raw, number, defaults)
        if item.id is None:
            yield item
        elif item.id in first_lines:
            message = f"the id {shown(item.id)} is that of line {first_lines[item.id]} already: give each its own"
            openai = item.openai if isinstance(item, InvalidRequest) else item.form != "plain"
            yield InvalidRequest(number, item.id, message, "custom_id" if openai else "id", "duplicate_id", openai)
        else:
            first_lines[item.id] = number
            yield item


def parse_line(raw: bytes, line: int, defaults: Defaults) -> Request | InvalidRequest:
    """What one line asks for."""
    openai, name = False, None
    try:
        fields = parse_object(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw)
        openai = "custom_id" in fields or "body" in fields
        name = _id(fields, "custom_id" if openai else "id")
        return _openai(fields, line, name, defaults) if openai else _plain(fields, line, name, defaults)
    except FieldError as error:
        return InvalidRequest(line, name, str(error), error.param, error.code, openai)
    except RecursionError:
        return InvalidRequest(line, name, "the line is nested too deeply", code="invalid_json", openai=openai)


def _id(fields: Mapping[str, Any], key: str) -> str | int:
    value = needed(fields, key, "it names the result, and a run that goes on finds it by that")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise FieldError(f"{key} must be a text or an integer, not {shown(value)}", param=key)
    return value


def _plain(fields: dict[str, Any], line: int, name: str | int, defaults: Defaults) -> Request:
    refuse_unknown(fields, ("id", "prompt", "messages", *_SHARED))
    if "prompt" in fields and "messages" in fields:
        raise FieldError("a request has a prompt or messages, not both: leave one out", param="messages")
    if "messages" not in fields:
        needed(fields, "prompt", "it is what is continued; or give messages")
    return _request(fields, line, name, "plain", defaults)


def _openai(fields: dict[str, Any], line: int, name: str | int, defaults: Defaults) -> Request:
    refuse_unknown(fields, ("custom_id", "method", "url", "body"))
    method = needed(fields, "method", "give POST")
    if method != "POST":
        raise FieldError(f"method must be POST, not {shown(method)}", param="method")
    url = needed(fields, "url", f"give {' or '.join(_URLS)}")
    if not isinstance(url, str) or url not in _URLS:
        raise FieldError(f"url must be {' or '.join(_URLS)}, not {shown(url)}", param="url")
    body = as_object("body", needed(fields, "body", "it is the request itself"), "body")
    what = "messages" if _URLS[url] == "chat" else "prompt"
    refuse_unknown(body, (what, *_SHARED))
    needed(body, what, f"it is what {url} answers")
    if "thinking" in body and _URLS[url] == "completion":
        raise FieldError("thinking needs messages: send it to /v1/chat/completions", param="thinking")
    return _request(body, line, name, _URLS[url], defaults)


def _request(fields: dict[str, Any], line: int, name: str | int, form: Form, defaults: Defaults) -> Request:
    """Whatever all forms share."""
    if "model" in fields:
        _check_model(parse_str("model", fields["model"]), defaults.model)
    prompt = parse_str("prompt", fields["prompt"]) if "prompt" in fields else None
    if prompt == "":
        raise FieldError("the prompt is empty: there is nothing to continue", param="prompt", code="empty_prompt")
    messages = _messages(fields["messages"]) if "messages" in fields else ()
    limit = parse_max_tokens(fields)
    return Request(
        line=line,
        id=name,
        form=form,
        prompt=prompt,
        messages=messages,
        sampling=sampling_of(fields, defaults.sampling),
        max_new_tokens=defaults.max_new_tokens if limit is None else limit,
        stop=parse_stop(fields, defaults.stop),
        thinking=as_object("thinking", fields["thinking"], "thinking") if "thinking" in fields else None,
    )


def _check_model(asked: str, loaded: str) -> None:
    """Refuse another model than the one that runs; a directory or file goes by its own name too."""
    path = PurePath(loaded)
    if asked != loaded and PurePath(asked).name not in (path.name, path.name.removesuffix(".gguf")):
        raise FieldError(
            f"the model {shown(asked)} is not the one that runs, {loaded!r}: name that one or leave it out",
            param="model",
            code="model_not_found",
        )


def _messages(value: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise FieldError(
            f"messages must be a list with at least one message, not {'an empty one' if value == [] else shown(value)}",
            param="messages",
        )
    messages = tuple(_message(f"messages[{index}]", item) for index, item in enumerate(value))
    if messages[-1]["role"] != "user":
        raise FieldError(
            f"the last message must be the user's, and its role is {messages[-1]['role']!r}", param="messages"
        )
    if not messages[-1]["content"].strip():
        raise FieldError("the last message is empty: there is nothing to answer", param="messages", code="empty_prompt")
    return messages


def _message(where: str, value: Any) -> dict[str, str]:
    fields = as_object(where, value, "messages")
    # What a model thought earlier comes back with its answers; templates leave it out of later turns.
    refuse_unknown(fields, ("role", "content", "reasoning_content", "reasoning"), f"{where}.")
    role = fields.get("role")
    if role not in _ROLES:
        raise FieldError(f"{where}.role must be one of {', '.join(_ROLES)}, not {shown(role)}", param=f"{where}.role")
    content = fields.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content[{index}]", part) for index, part in enumerate(content))
    return {"role": role, "content": parse_str(f"{where}.content", content)}


def _part(where: str, value: Any) -> str:
    """A part of a message's content: of OpenAI's kinds of parts, text."""
    fields = as_object(where, value, where)
    if fields.get("type") != "text":
        raise FieldError(
            f"{where} must be of type text, not {shown(fields.get('type'))}", param=where, code="unsupported_parameter"
        )
    return parse_str(f"{where}.text", fields.get("text"))
