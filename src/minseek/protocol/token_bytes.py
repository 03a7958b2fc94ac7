"""Bytes of single tokens, which need not be whole characters."""

from __future__ import annotations

import re

from minseek.models import Model

_INCOMPLETE = "\ufffd"  # decoded from bytes that do not form a character by themselves
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_LEVEL = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(byte for byte in range(256) if byte not in _PRINTABLE)
}
"""Alphabet of GPT-2's byte-level tokenizers: a printable character for each byte."""


def token_bytes(model: Model, token: int, text: str) -> list[int] | None:
    """Return the bytes of a token that decodes to `text` by itself.

    Bytes that are no whole characters are read from the vocabulary, as byte-level and byte-fallback tokenizers write
    them there; None if it writes them in another way.
    """
    if _INCOMPLETE not in text:
        return list(text.encode())
    name = str(model.tokenizer.convert_ids_to_tokens(token))
    if fallback := _BYTE_FALLBACK.fullmatch(name):
        return [int(fallback[1], 16)]
    found = [_BYTE_LEVEL.get(character, -1) for character in name]
    return found if -1 not in found and bytes(found).decode(errors="replace") == text else None
