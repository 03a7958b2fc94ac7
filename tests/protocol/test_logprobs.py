"""Texts of tokens in log-probabilities."""

from __future__ import annotations

import pytest

import minseek
from minseek.decode import TokenLogprob
from minseek.protocol.logprobs import chat_logprobs, completion_logprobs


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
    formatted = chat_logprobs(tiny, [TokenLogprob(tokens[1], -1.0, ())])
    assert formatted[0].token == tiny.decode([tokens[1]])
    assert formatted[0].bytes is None
