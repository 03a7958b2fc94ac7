"""Lines of batch files: requests, refused lines, and no line is lost, valid or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minseek.batch.request_jobs import split_thinking
from minseek.batch.requests import InvalidRequest, Request, RequestDefaults, parse_line, read_requests
from minseek.batch.result_file import ResultFile
from minseek.batch.results import RequestResult, dump_record, error_record, result_record
from minseek.batch.resume_state import ResumeState, read_resume_state
from minseek.decode import Sampling
from minseek.errors import InputError
from minseek.models import PLAIN, THINK
from minseek.models.chat.prompts import render_messages
from minseek.protocol.requests import ChatRequest, CompletionRequest
from minseek.protocol.responses import ChatChoice, ChatMessage, CompletionChoice, Usage
from minseek.protocol.sampling import parse_sampling
from tests.helpers.tiny_models import make_tokenizer

DEFAULTS = RequestDefaults(Sampling(temperature=0, top_p=1), None, (), "folder/tiny.gguf")
PLAIN_LINE: dict[str, Any] = {"id": "a", "prompt": "Hello"}
USER = [{"role": "user", "content": "Why?"}]
CHAT: dict[str, Any] = {"messages": USER}


def read(fields: Any, defaults: RequestDefaults = DEFAULTS) -> Request | InvalidRequest:
    return parse_line(fields if isinstance(fields, bytes) else json.dumps(fields).encode(), 7, defaults)


def accepted(fields: Any, defaults: RequestDefaults = DEFAULTS) -> Request:
    item = read(fields, defaults)
    assert isinstance(item, Request), item
    return item


def sampling(request: Request) -> Sampling:
    return parse_sampling(cast(Any, None), request.body, request.defaults.sampling)  # without a bias, no vocabulary


def openai(body: Any, **changes: Any) -> dict[str, Any]:
    return {"custom_id": "o", "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def test_a_plain_line() -> None:
    defaults = RequestDefaults(Sampling(temperature=0.5, seed=3), 9, ("\n",), "m")
    request = accepted(PLAIN_LINE, defaults)
    assert request == Request(7, "a", "plain", CompletionRequest(prompt="Hello"), defaults)
    assert sampling(request) == Sampling(temperature=0.5, seed=3)
    assert (request.max_new_tokens, request.stop, request.thinks, request.sequences) == (9, ("\n",), False, 1)
    fields = {"top_p": 0.5, "top_k": 4, "min_p": 0.1, "seed": 8, "temperature": 1, "stop": ["x", "y"]}
    own = accepted({**PLAIN_LINE, **fields, "max_tokens": 5}, defaults)
    assert sampling(own) == Sampling(temperature=1.0, top_p=0.5, top_k=4, min_p=0.1, seed=8)
    assert (own.stop, own.max_new_tokens) == (("x", "y"), 5)


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "max_completion_tokens"])
def test_all_names_of_the_limit(name: str) -> None:
    assert accepted({**PLAIN_LINE, name: 5}).max_new_tokens == 5
    assert accepted(openai({**CHAT, name: 5})).max_new_tokens == 5


def test_openai_lines() -> None:
    chat = accepted(openai({**CHAT, "model": "tiny", "stop": "x"}))
    assert (chat.id, chat.form) == ("o", "openai")
    assert isinstance(chat.body, ChatRequest)
    assert chat.body.conversation == USER
    assert chat.stop == ("x",)
    completion = accepted(openai({"prompt": "Hello"}, url="/v1/completions"))
    assert isinstance(completion.body, CompletionRequest)
    assert (completion.form, completion.body.prompts) == ("openai", ["Hello"])


def test_parts_of_text_are_joined_and_earlier_thinking_is_left_out() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]},
        {"role": "assistant", "content": "So.", "reasoning": "Hm", "reasoning_content": "Hm", "tool_calls": None},
        {"role": "user", "content": "And?"},
    ]
    body = accepted({"id": 1, "messages": messages}).body
    assert isinstance(body, ChatRequest)
    contents = [message["content"] for message in body.conversation]
    assert contents == ["Be brief.", "Why?", "So.", "And?"]


@pytest.mark.parametrize(
    "neutral",
    [
        *({"n": 1}, {"stream": False}, {"logprobs": False}, {"logprobs": None}, {"tools": None}, {"tools": []}),
        *({"presence_penalty": 0}, {"frequency_penalty": 0.0}, {"user": "me"}, {"metadata": {"a": 1}}),
        *({"response_format": {"type": "text"}}, {"temperature": None}, {"stop": None}, {"max_tokens": None}),
    ],
)
def test_fields_that_ask_for_nothing_are_no_reason_to_refuse(neutral: dict[str, Any]) -> None:
    request, bare = accepted(openai({**CHAT, **neutral})), accepted(openai(CHAT))
    assert (sampling(request), request.stop, request.max_new_tokens) == (sampling(bare), bare.stop, None)
    assert (request.thinks, request.sequences, request.body.num_logprobs) == (False, 1, None)


def test_a_question_is_a_chat_of_one_message_with_or_without_thinking() -> None:
    for fields in ({}, {"reasoning_effort": "low"}):
        asked = accepted({"id": 1, "question": "Why?", **fields})
        sent = accepted({"id": 1, "messages": [{"role": "user", "content": "Why?"}], **fields})
        assert asked.body == sent.body
        assert (asked.text_field, sent.text_field) == ("question", None)


@pytest.mark.parametrize("model", ["tiny", "tiny.gguf", "folder/tiny.gguf", "somebody/tiny"])
def test_the_model_may_be_named(model: str) -> None:
    accepted({**PLAIN_LINE, "model": model})


@pytest.mark.parametrize(
    ("fields", "name", "param", "said"),
    [
        (b"{", None, None, "not JSON: Expecting property name"),
        (b"[1]", None, None, "not a list"),
        (b"3", None, None, "not 3"),
        (b'"\\ud800"', None, None, "JSON object"),
        (b'{"id": "\xff"}', None, None, "byte 8"),
        (b"[" * 100_000, None, None, "nested"),
        (b'{"id": ' + b"9" * 5000 + b"}", None, None, "digit"),
        (b'{"id": "a", "prompt": NaN}', None, None, "NaN"),
        ({}, None, "id", "'id' is missing"),
        ({"prompt": "x"}, None, "id", "'id' is missing"),
        ({"id": None, "prompt": "x"}, None, "id", "'id' is missing"),
        ({"id": "", "prompt": "x"}, None, "id", "not ''"),
        ({"id": 1.5, "prompt": "x"}, None, "id", "not 1.5"),
        ({"id": True, "prompt": "x"}, None, "id", "not true"),
        ({"id": ["a"], "prompt": "x"}, None, "id", "not a list"),
        ({"id": "a"}, "a", "prompt", "'prompt' is missing"),
        ({"id": "a", "prompt": ""}, "a", "prompt", "empty"),
        ({"id": "a", "prompt": [3.5]}, "a", "prompt[0]", "not 3.5"),
        (b'{"id": "a", "prompt": "\\ud800"}', "a", "prompt", "surrogate"),
        ({**PLAIN_LINE, "messages": USER}, "a", "messages", "not both"),
        ({**PLAIN_LINE, "max_new_token": 3}, "a", "max_new_token", "'max_new_token' with the value 3"),
        ({**PLAIN_LINE, "max_tokens": 0}, "a", "max_tokens", "not 0"),
        ({**PLAIN_LINE, "max_tokens": 2.5}, "a", "max_tokens", "not 2.5"),
        ({**PLAIN_LINE, "max_tokens": True}, "a", "max_tokens", "not true"),
        ({**PLAIN_LINE, "max_tokens": 3, "max_new_tokens": 4}, "a", "max_new_tokens", "max_tokens=3, max_new_tokens=4"),
        ({**PLAIN_LINE, "temperature": -1}, "a", "temperature", "not -1"),
        ({**PLAIN_LINE, "temperature": "hot"}, "a", "temperature", "not 'hot'"),
        ({**PLAIN_LINE, "temperature": 10**400}, "a", "temperature", "not 1000"),
        (b'{"id": "a", "prompt": "x", "temperature": 1e999}', "a", "temperature", "not Infinity"),
        ({**PLAIN_LINE, "top_p": 0}, "a", "top_p", "not 0"),
        ({**PLAIN_LINE, "top_k": 1.5}, "a", "top_k", "not 1.5"),
        ({**PLAIN_LINE, "min_p": 2}, "a", "min_p", "not 2"),
        ({**PLAIN_LINE, "seed": 2**63}, "a", "seed", "not 9223372036854775808"),
        ({**PLAIN_LINE, "stop": ""}, "a", "stop", "at least 1 character"),
        ({**PLAIN_LINE, "stop": [3]}, "a", "stop[0]", "not 3"),
        ({**PLAIN_LINE, "model": "other"}, "a", "model", "'other'"),
        ({**PLAIN_LINE, "thinking": 3}, "a", "thinking", "not 3"),
        ({"id": "a", "messages": []}, "a", "messages", "at least 1 item"),
        ({"id": "a", "messages": "x"}, "a", "messages", "'x'"),
        ({**PLAIN_LINE, "question": "x"}, "a", "question", "a prompt or question, not both"),
        ({"id": "a", "question": "x", "messages": USER}, "a", "messages", "a question or messages, not both"),
        ({"id": "a", "question": 5}, "a", "question", "a question must be a text, not 5"),
        ({"id": "a", "question": " "}, "a", "question", "the question is empty"),
        ({"id": "a", "messages": ["x"]}, "a", "messages[0]", "messages[0] must"),
        ({"id": "a", "messages": [{"role": "tool", "content": "x"}]}, "a", "messages[0].role", "'tool'"),
        ({"id": "a", "messages": [{"role": "user"}]}, "a", "messages[0].content", "is missing"),
        ({"id": "a", "messages": [{"role": "user", "content": " "}]}, "a", "messages[0]", "empty"),
        ({"id": "a", "messages": [{"role": "assistant", "content": "x"}]}, "a", "messages[0]", "'assistant'"),
        ({"id": "a", "messages": [{**USER[0], "names": "x"}]}, "a", "messages[0].names", "messages[0].names"),
        ({**PLAIN_LINE, "stop": {}}, "a", "stop", "stop must be a valid string or a valid list, not an object"),
        (
            {"id": "a", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            *("a", "messages[0].content[0].type", "'image_url'"),
        ),
        (openai(CHAT, method="GET"), "o", "method", "'GET'"),
        (openai(CHAT, url="/v1/embeddings"), "o", "url", "'/v1/embeddings'"),
        (openai(CHAT, url=["x"]), "o", "url", "a list"),
        (openai("x"), "o", "body", "'x'"),
        (openai({}), "o", "messages", "missing"),
        (openai({**CHAT, "prompt": "x"}), "o", "prompt", "'prompt' with the value 'x'"),
        (openai(CHAT, extra=1), "o", "extra", "'extra'"),
        ({"custom_id": "o", "body": CHAT}, "o", "method", "missing"),
        ({"body": CHAT}, None, "custom_id", "missing"),
        (openai({"prompt": "x", "thinking": {}}, url="/v1/completions"), "o", "thinking", "not supported"),
        *(
            (openai({**CHAT, **unknown}), "o", next(iter(unknown)), next(iter(unknown)))
            for unknown in (
                *({"n": 9}, {"n": True}, {"stream": True}, {"logprobs": 3}, {"top_logprobs": 3}, {"foo": 0}),
                *({"tools": [{}]}, {"presence_penalty": 2.5}, {"logit_bias": 3}, {"reasoning_effort": "huge"}),
            )
        ),
    ],
)
def test_unsupported_lines_are_refused_by_name(fields: Any, name: Any, param: str | None, said: str) -> None:
    item = read(fields)
    assert isinstance(item, InvalidRequest), item
    assert (item.line, item.id, item.param) == (7, name, param)
    assert said in item.message
    assert len(item.message) < 300
    assert "\n" not in item.message
    json.loads(dump_record(error_record(item)))


def test_an_id_is_good_for_one_line_and_blank_lines_count_as_lines() -> None:
    lines = [b'{"id": "a", "prompt": ""}', b"\n", b" \r\n", b'{"custom_id": "a"}', b'{"id": 1}', b'{"id": "1"}']
    items = list(read_requests(lines, DEFAULTS))
    assert [(item.line, item.id) for item in items] == [(1, "a"), (4, "a"), (5, 1), (6, "1")]
    assert isinstance(items[1], InvalidRequest)
    assert (items[1].code, items[1].param, items[1].openai) == ("duplicate_id", "custom_id", True)
    assert "line 1" in items[1].message


def test_byte_order_marks_are_no_part_of_a_line() -> None:
    mark, line = b"\xef\xbb\xbf", json.dumps(PLAIN_LINE).encode()
    (item,) = read_requests([mark + line], DEFAULTS)
    assert isinstance(item, Request)
    assert [item.line for item in read_requests([mark + b"\n", mark, line, mark + b" \n"], DEFAULTS)] == [3]
    joined = list(read_requests([line, mark + json.dumps({**PLAIN_LINE, "id": "b"}).encode()], DEFAULTS))
    assert all(isinstance(item, Request) for item in joined)


@pytest.mark.parametrize("top_k", [-1, 0])
def test_a_top_k_that_is_none_overrides_the_default(top_k: int) -> None:
    defaults = replace(DEFAULTS, sampling=Sampling(top_k=20))
    item = parse_line(json.dumps({**PLAIN_LINE, "top_k": top_k}).encode(), 1, defaults)
    assert isinstance(item, Request)
    assert parse_sampling(cast(Any, None), item.body, item.defaults.sampling).top_k is None
    (other,) = read_requests([json.dumps({**PLAIN_LINE, "top_k": None}).encode()], defaults)
    assert isinstance(other, Request)
    assert parse_sampling(cast(Any, None), other.body, other.defaults.sampling).top_k == 20


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/chat/completions", "/v1/completions", "/completions"])
def test_urls_of_openai_and_azure(url: str) -> None:
    chat = "chat" in url
    request = accepted(openai(CHAT if chat else {"prompt": "x"}, url=url))
    assert isinstance(request.body, ChatRequest) == chat


def test_an_answer_without_content_is_an_empty_one() -> None:
    for content in ({"content": None}, {}, {"content": ""}):
        messages = [*USER, {"role": "assistant", "refusal": None, **content}, *USER]
        body = accepted({"id": 1, "messages": messages}).body
        assert isinstance(body, ChatRequest)
        assert body.conversation[1] == {"role": "assistant", "content": ""}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["id", "custom_id", "prompt", "messages", "body", "url", "method", "stop", "seed", "thinking", "n", "max_tokens"]
)
LINES = st.one_of(
    st.binary(max_size=60).filter(lambda raw: b"\n" not in raw),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(NAMES | st.text(max_size=4), VALUES, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda name, more: json.dumps({"id": name, "prompt": "x"} | more).encode(),
        VALUES,
        st.just({}) | VALUES.filter(lambda value: isinstance(value, dict)),
    ),
    st.dictionaries(NAMES, VALUES, max_size=4).map(lambda body: json.dumps(openai(body)).encode()),
)


def result(request: Request) -> RequestResult:
    choice: ChatChoice | CompletionChoice = CompletionChoice(index=0, text="x", finish_reason="stop")
    if isinstance(request.body, ChatRequest):
        choice = ChatChoice(index=0, message=ChatMessage(content="x"), finish_reason="stop")
    return RequestResult([choice], Usage.of(1, 1))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINES, max_size=8))
@example(lines=[b'{"id": "\\ud800", "prompt": "x"}', b'{"\\ud800": 1, "id": 2}', b"\x00", b"\xc2\x85"])
def test_every_line_that_is_not_blank_is_accounted_for_once(lines: list[bytes]) -> None:
    items = list(read_requests([line + b"\n" for line in lines], DEFAULTS))
    told = [n for n, line in enumerate(lines, start=1) if line.removeprefix(b"\xef\xbb\xbf").strip()]
    assert [item.line for item in items] == told
    ids = [item.id for item in items if item.id is not None and getattr(item, "code", "") != "duplicate_id"]
    assert len(ids) == len(set(ids))
    for item in items:
        record = error_record(item) if isinstance(item, InvalidRequest) else result_record(item, result(item), "m")
        written = dump_record(record)
        assert written.count(b"\n") == 1
        assert len(written.decode().splitlines()) == 1
        assert json.loads(written) == record


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(lines=st.lists(LINES, max_size=6), cut=st.floats(0, 1))
def test_a_file_cut_off_anywhere_is_completed_with_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: float
) -> None:
    path = tmp_path_factory.mktemp("out") / "out.jsonl"

    def go_on(earlier: ResumeState) -> None:
        with ResultFile(path, earlier) as out:
            for item in read_requests(lines, DEFAULTS):
                if not earlier.has(item):
                    failed = isinstance(item, InvalidRequest)
                    out.write(error_record(item) if failed else {"id": item.id, "text": "x"})  # type: ignore[arg-type]

    go_on(ResumeState())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    earlier = read_resume_state(path)
    assert earlier.whole + earlier.torn == path.stat().st_size
    go_on(earlier)
    assert path.read_bytes() == whole


# Result files


@pytest.mark.parametrize(
    "content",
    [
        *(b"hello", b"hello\n", b"\x00\x01", b'{"id": "a", "prompt": "x"}\n', b'{"id": null, "text": "x"}\n', b"[]\n"),
        *(b'{"id": [], "text": "x"}\n', b'{"id": "a", "error": 3}\n', b'{"id": "a", "error": {}}\n', b"\n"),
        b'{"id": "a", "text": "x"}\n{"idle": 1',
    ],
)
def test_a_file_with_anything_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a result of minseek batch"):
        read_resume_state(path)
    assert path.read_bytes() == content


def test_a_file_that_changes_between_reading_and_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "a", "text": "x"}\n')
    earlier = read_resume_state(path)
    with path.open("ab") as stream:
        stream.write(b'{"id": "b", "text": "x"}\n')
    with pytest.raises(InputError, match="has changed"):
        ResultFile(path, earlier)
    assert path.read_bytes().count(b"\n") == 2


def test_two_runs_cannot_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with ResultFile(path, ResumeState()), pytest.raises(InputError, match="another run is writing"):
        ResultFile(path, ResumeState())
    ResultFile(path, ResumeState()).__exit__(None, None, None)


def test_lines_are_lines_to_every_reader() -> None:
    written = dump_record({"id": "a", "text": "a\u2028b\u2029c\x85d\r\x0c\x1e e\n"})
    assert len(written.decode().splitlines()) == 1
    assert json.loads(written)["text"] == "a\u2028b\u2029c\x85d\r\x0c\x1e e\n"


# Conversations


@pytest.mark.parametrize(
    ("text", "opened", "apart"),
    [
        ("Hm.</think>\n\nSo.", True, ("Hm.", "So.")),
        ("Hm.", True, ("Hm.", "")),
        ("\n<think>Hm.</think>So.", False, ("Hm.", "So.")),
        ("<think>Hm.", False, ("Hm.", "")),
        (" So. ", False, (None, " So. ")),
        ("So. <think>", False, (None, "So. <think>")),
    ],
)
def test_thinking_is_separated_from_the_answer(text: str, opened: bool, apart: tuple[str | None, str]) -> None:
    assert split_thinking(text, THINK, opened=opened) == apart
    assert split_thinking(text, PLAIN, opened=opened) == (None, text)


def test_a_conversation_is_put_into_the_template() -> None:
    roles = ("user", "assistant", "user")
    several = [{"role": role, "content": content} for role, content in zip(roles, "abc", strict=True)]
    assert render_messages(make_tokenizer("plain"), several) == "u:a\na:b\nu:c\na:"
    assert render_messages(make_tokenizer("ignores"), several[:1]) == "u:a<|end|>\na:"


def test_without_a_template_only_a_question_is_accepted() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    system, question = {"role": "system", "content": "s"}, {"role": "user", "content": "q"}
    assert render_messages(tokenizer, [system, question]) == "s\n\nq"
    with pytest.raises(InputError, match="no chat template, so 2 messages"):
        render_messages(tokenizer, [question, question])
