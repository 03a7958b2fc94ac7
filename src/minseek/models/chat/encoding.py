"""Conversion of text to tokens: prompts, and texts that continue others."""

from __future__ import annotations

from typing import Any

_CONTEXT = 1000  # characters before a text, enough for any tokenizer to see that it continues another
_ANCHORS = ("\n", "a", "0", ".")


def encode(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a text, without the special tokens that the tokenizer puts before and after one."""
    return list(tokenizer.encode(text, add_special_tokens=False, verbose=False))


def encode_prompt(tokenizer: Any, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Tokens of a text that is to be continued: with the tokenizer's special tokens before it, and none after it.

    Most tokenizers put a BOS token before a text or nothing; some add an EOS token, after which a model would begin
    another text. An empty text has no tokens at all.
    """
    if not add_special_tokens:
        return encode(tokenizer, text)
    found = tokenizer(text, return_special_tokens_mask=True, verbose=False)
    ids, is_special = list(found["input_ids"]), found["special_tokens_mask"]
    while ids and is_special[len(ids) - 1]:
        ids.pop()
    return ids


def encode_rendered(tokenizer: Any, text: str) -> list[int]:
    """Tokens of a rendered conversation; a chat template writes the special tokens itself."""
    return encode_prompt(tokenizer, text, add_special_tokens=not tokenizer.chat_template)


def encode_continuation(tokenizer: Any, text: str, before: str = "") -> list[int]:
    """Tokens of a text that follows another one, as a model would generate them: none of them spans both.

    SentencePiece-like tokenizers put a space before a text, so the two are encoded together and divided. If the joined
    text has a token that spans both, the text is encoded after a neutral character instead.
    """
    for anchor in (before[-_CONTEXT:], *_ANCHORS):
        head = encode(tokenizer, anchor)
        joined = encode(tokenizer, anchor + text)
        if head and joined[: len(head)] == head:
            return joined[len(head) :]
    return encode(tokenizer, text)
