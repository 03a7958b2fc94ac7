"""Texts of tokens in log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minseek
from minseek.decode import TextStream, TokenLogprob
from minseek.protocol.chat_stream import CleanText
from minseek.protocol.completion_stream import CompletionStream
from minseek.protocol.logprobs import chat_logprobs, completion_logprobs
from minseek.protocol.token_texts import TokenTexts, divide
from tests.helpers.tokenizers import save_sentencepiece_model

TAGS = ("<think>", "</think>")
PIECES = st.lists(
    st.sampled_from(
        ["", " ", "\n", "a", "b ", " c", "<", ">", "think", "/think>", "</think>", "é", "<think> x", "  y  "]
    ),
    max_size=30,
)


def entries(pieces: Sequence[str]) -> list[TokenLogprob]:
    return [TokenLogprob(index, -1.0, [], piece) for index, piece in enumerate(pieces)]


def test_tokens_keep_their_space(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 2's tokenizer: every token is a word, and a text's first space is dropped."""
    monkeypatch.setattr(tiny, "decode", lambda tokens: "".join(f" {token}" for token in tokens)[1:], raising=False)
    given = [TokenLogprob(7, -0.5, ((7, -0.5), (8, -1.0))), TokenLogprob(12, -0.1, ((12, -0.1),))]
    formatted = completion_logprobs(tiny, given, offset=3)
    assert formatted.tokens == [" 7", " 12"]
    assert formatted.text_offset == [3, 5]
    assert formatted.top_logprobs == [{" 7": -0.5, " 8": -1.0}, {" 12": -0.1}]
    assert [one.token for one in chat_logprobs(tiny, given)] == [" 7", " 12"]
    assert chat_logprobs(tiny, given)[1].bytes == list(b" 12")


def test_bytes_within_a_character_are_their_own(tiny: minseek.Model) -> None:
    tokens = tiny.encode("中")
    assert len(tokens) > 1
    formatted = chat_logprobs(tiny, [TokenLogprob(tokens[1], -1.0, [(tokens[0], -2.0)])])
    assert formatted[0].token == tiny.decode([tokens[1]])
    assert formatted[0].bytes == ["中".encode()[1]]
    assert formatted[0].top_logprobs[0].bytes == ["中".encode()[0]]


@given(st.text(max_size=8))
@settings(deadline=None, max_examples=60)
def test_joined_bytes_are_the_text(tiny: minseek.Model, spaced: minseek.Model, text: str) -> None:
    for model in (tiny, spaced):
        tokens, texts = model.encode_continuation(text), TextStream(model.decode, model.encode("a"))
        given = [TokenLogprob(token, -1.0, [], texts.push(token)) for token in tokens]
        assert b"".join(bytes(token.bytes or ()) for token in chat_logprobs(model, given)) == text.encode()


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> minseek.Model:
    """A model with a byte-fallback tokenizer."""
    folder = save_sentencepiece_model(tmp_path_factory.mktemp("spaced"))
    return minseek.load(str(folder), device="cpu", dtype="float32")


@given(PIECES)
@settings(deadline=None, max_examples=300)
def test_joined_texts_are_the_content_without_tags_and_white_space_around_it(pieces: list[str]) -> None:
    clean, texts, content, tokens = CleanText(TAGS), TokenTexts(), "", list[TokenLogprob]()
    for index, entry in enumerate(entries(pieces)):
        texts.add(entry)
        if released := clean.push(entry.text or "", last=False):
            content += released
            tokens += texts.release(released)
            assert content.startswith("".join(token.text or "" for token in tokens)), "no token is ahead of the text"
        assert len(tokens) <= index + 1
    if released := clean.push("", last=True):
        content += released
        tokens += texts.release(released)
    tokens += texts.finish(stopped=False)
    assert "".join(token.text or "" for token in tokens) == content
    assert [token.token for token in tokens] == list(range(len(pieces)))
    assert divide(content, entries(pieces)) == tokens or any(tag in "".join(pieces) for tag in TAGS)


@given(st.lists(st.sampled_from(["a", " ", "b", "", "ab", "STOP", "ST", "OP"]), max_size=20), st.data())
@settings(deadline=None, max_examples=200)
def test_tokens_of_a_stop_string_are_left_out(pieces: list[str], data: st.DataObject) -> None:
    whole, stream = "".join(pieces), CompletionStream()
    cut = whole.partition("STOP")[0]
    held = data.draw(st.integers(0, 4))  # characters that may begin the stop string are released later
    for entry in entries(pieces):
        seen = len(stream.text) + len(entry.text or "")
        stream.push(cut[len(stream.text) : max(len(stream.text), min(len(cut), seen - held))], entry)
    stream.push(cut[len(stream.text) :], None)
    stream.finish(stopped="STOP" in whole)
    assert "".join(token.text or "" for token in stream.logprobs) == stream.text == cut
    assert stream.offset == len(cut)


def test_text_before_the_first_token_is_the_first_tokens() -> None:
    texts = TokenTexts()
    assert texts.release(">7") == []
    texts.add(TokenLogprob(0, -1.0, [], " a"))
    assert [entry.text for entry in texts.release(" a")] == [">7 a"]
