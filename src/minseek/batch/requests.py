"""Lines of a batch file: requests, and lines that are refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from minseek.decode import Sampling
from minseek.errors import is_instance
from minseek.protocol.fields import FieldError, check_object, parse_object, preview, refuse_unknown, require
from minseek.protocol.requests import ChatRequest, CompletionRequest
from minseek.protocol.thinking import THINKING_FIELDS
from minseek.protocol.validation import check_model_name, parse_body

DEFAULT_NEW_TOKENS = 256
"""Maximum number of tokens to generate if neither the request nor the command gives one."""
Form = Literal["plain", "openai"]
CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
_URLS = {url.removeprefix(prefix): url for url in (CHAT_URL, COMPLETIONS_URL) for prefix in ("", "/v1")}
"""The two routes by their names at OpenAI and, without "/v1", at Azure."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RequestDefaults:
    """Values for what a request leaves open.

    Attributes
    ----------
    sampling : Sampling
    max_new_tokens : int or None
        Maximum number of tokens to generate.
    stop : tuple of str
        Texts that end an answer.
    model : str
        Name of the loaded model, the only one that a request may name.
    """

    sampling: Sampling
    max_new_tokens: int | None
    stop: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class Request:
    """Request of one line.

    Attributes
    ----------
    line : int
        Number of the line, from 1.
    id : str or int
        Its ``id``, or its ``custom_id`` in OpenAI's form.
    form : {"plain", "openai"}
    body : ChatRequest or CompletionRequest
        Body as the server reads it; a question, or a plain prompt with thinking fields, is a chat of one message.
    defaults : RequestDefaults
    text_field : str or None
        Field that gave the only message of a chat: "question", or "prompt" with thinking fields.
    """

    line: int
    id: str | int
    form: Form
    body: ChatRequest | CompletionRequest
    defaults: RequestDefaults
    text_field: str | None = None

    @property
    def max_new_tokens(self) -> int | None:
        """Maximum number of tokens to generate; None if neither request nor defaults have one."""
        return self.body.limit or self.defaults.max_new_tokens

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return self.defaults.stop if self.body.stop_texts is None else self.body.stop_texts

    @property
    def sequences(self) -> int:
        """Number of choices of all prompts."""
        prompts = 1 if isinstance(self.body, ChatRequest) else len(self.body.prompts)
        return prompts * self.body.choices

    @property
    def thinks(self) -> bool:
        """True if the request has any thinking field; others are plain generation."""
        return any(getattr(self.body, name, None) is not None for name in THINKING_FIELDS)

    def reject(self, message: str, *, param: str | None = None, code: str = "invalid_value") -> InvalidRequest:
        """Return the error of a request that cannot be run after all."""
        return InvalidRequest(self.line, self.id, message, param, code, openai=self.form == "openai")


@dataclass(frozen=True)
class InvalidRequest:
    """Error of a line that is not run; `id` is None if the line has none that can be read."""

    line: int
    id: str | int | None
    message: str
    param: str | None = None
    code: str = "invalid_value"
    openai: bool = False


def read_requests(lines: Iterable[bytes], defaults: RequestDefaults) -> Iterator[Request | InvalidRequest]:
    """Parse all lines that are not blank, one at a time; a second line with the same id is refused.

    A byte-order mark is no part of a line: files with one may have been joined.
    """
    first_lines: dict[str | int, int] = {}
    for number, line in enumerate(lines, start=1):
        raw = line.removeprefix(_BYTE_ORDER_MARK)
        if not raw.strip():
            continue
        item = parse_line(raw, number, defaults)
        if item.id is None:
            yield item
        elif item.id in first_lines:
            message = f"the id {preview(item.id)} is that of line {first_lines[item.id]} already: give each its own"
            openai = item.openai if isinstance(item, InvalidRequest) else item.form == "openai"
            yield InvalidRequest(number, item.id, message, "custom_id" if openai else "id", "duplicate_id", openai)
        else:
            first_lines[item.id] = number
            yield item


def parse_line(raw: bytes, line: int, defaults: RequestDefaults) -> Request | InvalidRequest:
    """Parse one line."""
    openai, name = False, None
    try:
        fields = parse_object(raw)
        fields = {name: value for name, value in fields.items() if value is not None}
        openai = "custom_id" in fields or "body" in fields
        name = _parse_id(fields, "custom_id" if openai else "id")
        body = _parse_openai(fields) if openai else _parse_plain(fields)
        if body.stream:
            raise FieldError(
                "stream has no effect in a batch file, whose results are whole lines: leave it out",
                param="stream",
                code="unsupported_parameter",
            )
        check_model_name(body.model, defaults.model)
        text_field = None
        if isinstance(body, ChatRequest):
            text_field = next((field for field in ("question", "prompt") if field in fields), None)
        return Request(line, name, "openai" if openai else "plain", body, defaults, text_field)
    except FieldError as error:
        return InvalidRequest(line, name, str(error), error.param, error.code, openai)
    except RecursionError:
        return InvalidRequest(line, name, "the line is nested too deeply", code="invalid_json", openai=openai)


def _parse_id(fields: Mapping[str, Any], key: str) -> str | int:
    value = require(fields, key, "it names the result, and a run that is resumed finds it by that")
    if not is_instance(value, (str, int)) or value == "":
        raise FieldError(f"{key} must be a text or an integer, not {preview(value)}", param=key)
    name: str | int = value
    return name


def _parse_openai(fields: Mapping[str, Any]) -> ChatRequest | CompletionRequest:
    refuse_unknown(fields, ("custom_id", "method", "url", "body"))
    method = require(fields, "method", "give POST")
    if method != "POST":
        raise FieldError(f"method must be POST, not {preview(method)}", param="method")
    url = require(fields, "url", f"give {CHAT_URL} or {COMPLETIONS_URL}")
    if not isinstance(url, str) or url not in _URLS:
        raise FieldError(f"url must be {CHAT_URL} or {COMPLETIONS_URL}, not {preview(url)}", param="url")
    body = check_object("body", require(fields, "body", "it is the request itself"), "body")
    return parse_body(ChatRequest, body) if _URLS[url] == CHAT_URL else parse_body(CompletionRequest, body)


def _parse_plain(fields: Mapping[str, Any]) -> ChatRequest | CompletionRequest:
    body = {name: value for name, value in fields.items() if name != "id"}
    given = [name for name in ("prompt", "question", "messages") if name in body]
    if len(given) > 1:
        a, b = given[:2]
        raise FieldError(f"a request has a {a} or {b}, not both: leave one out", param=b)
    if given == ["messages"]:
        return parse_body(ChatRequest, body)
    if given == ["question"]:
        return _parse_question("question", body.pop("question"), body)
    prompt = require(body, "prompt", "it is the text to continue; or give a question or messages")
    if any(name in body for name in THINKING_FIELDS):
        return _parse_question("prompt", prompt, {name: value for name, value in body.items() if name != "prompt"})
    return parse_body(CompletionRequest, body)


def _parse_question(field: str, text: Any, rest: Mapping[str, Any]) -> ChatRequest:
    """Read a question, or a prompt with thinking fields: a chat whose only message is that text."""
    if not isinstance(text, str):
        kind = "a question" if field == "question" else "a prompt with thinking"
        raise FieldError(f"{kind} must be a text, not {preview(text)}", param=field)
    try:
        return parse_body(ChatRequest, {**rest, "messages": [{"role": "user", "content": text}]})
    except FieldError as error:
        if not (error.param or "").startswith("messages[0]"):
            raise
        message = str(error).replace("messages[0].content", field).replace("the last message", f"the {field}")
        raise FieldError(message, param=field, code=error.code) from None
