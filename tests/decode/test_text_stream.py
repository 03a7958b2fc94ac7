"""Text from tokens, and tags in text, piece by piece."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

import minseek
from minseek.decode import TagWatcher, TextStream, decode_after, decode_context
from minseek.models import alias_file
from tests.helpers.tiny_models import make_tokenizer

LOST = "\ufffd"
TOKENIZER = make_tokenizer()
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_OF_ID = [*PRINTABLE, *(b for b in range(256) if b not in PRINTABLE)]  # the byte-level alphabet, sorted
ID_OF_BYTE = {byte: token for token, byte in enumerate(BYTE_OF_ID)}
HARD = [
    "é",
    "e\u0301",
    "中",
    "文",
    "ञ",
    "😀",
    "👩\u200d💻",
    "🇨🇭",
    "\u0300",
    "\u200d",
    "\0",
    " ",
    "\n",
    "a",
    "\U0010ffff",
]
TEXTS = st.text(max_size=25) | st.lists(st.sampled_from(HARD), max_size=12).map("".join)


def decode(tokens: list[int]) -> str:
    return str(TOKENIZER.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def tokens_of(data: bytes) -> list[int]:
    return [ID_OF_BYTE[byte] for byte in data]


def streamed(
    tokens: list[int], decode: Callable[[list[int]], str] = decode, before: list[int] | None = None
) -> list[str]:
    stream = TextStream(decode, before=before or [])
    return [*(stream.push(token) for token in tokens), stream.flush()]


def test_the_byte_tokenizer_is_what_these_tests_take_it_for() -> None:
    assert all(decode([ID_OF_BYTE[byte]]) == chr(byte) for byte in range(128))
    assert TOKENIZER.encode("中😀") == tokens_of("中😀".encode())


@given(TEXTS)
@settings(deadline=None, max_examples=50)
def test_the_pieces_add_up_to_the_text(text: str) -> None:
    pieces = streamed(TOKENIZER.encode(text))
    assert "".join(pieces) == text
    assert LOST in text or not any(LOST in piece for piece in pieces)


@given(TEXTS.filter(lambda text: LOST not in text))
@settings(deadline=None, max_examples=50)
def test_a_character_comes_with_its_last_token(text: str) -> None:
    pieces = streamed(tokens_of(text.encode()))
    ends = list(accumulate(len(character.encode()) for character in text))
    assert [end for end, piece in enumerate(pieces, start=1) if piece] == ends
    assert [piece for piece in pieces if piece] == list(text)


@given(TEXTS, TEXTS)
@settings(deadline=None, max_examples=50)
def test_the_context_is_not_repeated(before: str, text: str) -> None:
    assert "".join(streamed(tokens_of(text.encode()), before=tokens_of(before.encode()))) == text


@given(
    st.lists(
        st.binary(max_size=6)
        | st.sampled_from(HARD).map(str.encode)
        | st.sampled_from([b"\x80", b"\xe4\xb8", b"\xf0\x9f"])
    )
)
@example([b"\x80\x80\x80", "中".encode()])
@example([b"\x80\x80", "😀".encode()])
@settings(deadline=None, max_examples=80)
def test_of_invalid_bytes_no_whole_character_is_lost_or_held_back(parts: list[bytes]) -> None:
    tokens = tokens_of(b"".join(parts))
    stream, text = TextStream(decode), ""
    for count, token in enumerate(tokens, start=1):
        text += stream.push(token)
        due = decode(tokens[: max(0, count - 4)])
        assert text.replace(LOST, "").startswith(due.replace(LOST, "")), "more than 4 tokens are held back"
    text += stream.flush()
    assert text.replace(LOST, "") == decode(tokens).replace(LOST, "")


@given(TEXTS.filter(lambda text: LOST not in text), st.integers(1, 6), st.integers(1, 6))
@example("é" * 8, 1, 2)
@example("é" * 80, 1, 2)
@settings(deadline=None, max_examples=50)
def test_tokens_may_hold_the_end_of_one_character_and_the_beginning_of_the_next(
    text: str, first: int, length: int
) -> None:
    data = text.encode()
    parts = [data[:first], *(data[at : at + length] for at in range(first, len(data), length))]
    pieces = streamed(list(range(len(parts))), lambda ids: b"".join(parts[i] for i in ids).decode(errors="replace"))
    assert "".join(pieces) == text
    assert not any(LOST in piece for piece in pieces)


def byte_fallback_decode() -> Callable[[list[int]], str]:
    """Decode as Llama 2 and Mistral do: runs of byte tokens that are not UTF-8 are lost whole, as is a first space."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {
        f"▁{letter}": 256 + ord(letter) for letter in "abc"
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return tokenizer.decode


def byte_fallback_tokens(text: str) -> list[int]:
    words = re.findall(r" [abc]|.[^ ]*", text, re.DOTALL)
    return [token for w in words for token in ([256 + ord(w[1])] if re.fullmatch(" [abc]", w) else w.encode())]


FALLBACK = byte_fallback_decode()
FALLBACK_TEXTS = st.lists(st.sampled_from([" a", " b", " c", "é", "中", "文", "😀"]), max_size=12).map("".join)


@given(FALLBACK_TEXTS, FALLBACK_TEXTS)
@example("", "中文中文")
@example("中文", "中")
@example(" a", " b")
@settings(deadline=None, max_examples=50)
def test_runs_of_byte_tokens_come_out_whole(before: str, text: str) -> None:
    pieces = streamed(byte_fallback_tokens(text), FALLBACK, before=byte_fallback_tokens(before))
    assert "".join(pieces) == (text if before else text.removeprefix(" "))
    assert not any(LOST in piece for piece in pieces)


@given(FALLBACK_TEXTS, FALLBACK_TEXTS, st.integers(0, 3))
@example("", " a", 0)
@example(" a", " b", 0)
@example("", "😀😀😀", 1)
@settings(deadline=None, max_examples=80)
def test_decode_after_equals_a_stream(before: str, text: str, cut: int) -> None:
    first, tokens = byte_fallback_tokens(before), byte_fallback_tokens(text)
    tokens = tokens[: len(tokens) - cut]
    assert decode_after(FALLBACK, first, tokens) == "".join(streamed(tokens, FALLBACK, before=first))


def test_a_cut_character_costs_no_complete_one() -> None:
    tokens = byte_fallback_tokens("😀😀😀")
    for decode_bytes, ids in ((FALLBACK, tokens), (decode, tokens_of("😀😀😀".encode()))):
        text = decode_after(decode_bytes, [], ids[:-1])
        assert text.startswith("😀😀" + LOST)
        assert text.replace(LOST, "") == "😀😀"


def test_text_after_half_a_character_has_no_context() -> None:
    half = tokens_of("a中".encode())
    assert decode_after(decode, half[:-1], half[-1:]) == decode(half[-1:])
    assert decode_after(decode, [], half) == "a中"
    assert decode_context(decode, half[:-1]) == []
    assert decode(decode_context(decode, half)) == "中"


def test_flush_gives_an_incomplete_character_once() -> None:
    stream = TextStream(decode)
    assert [stream.push(token) for token in tokens_of("a中".encode()[:-1])] == ["a", "", ""]
    assert stream.flush() == LOST
    assert stream.flush() == ""


def test_decoding_stays_cheap_however_long_the_text() -> None:
    lengths = []

    def counted(tokens: list[int]) -> str:
        lengths.append(len(tokens))
        return decode(tokens)

    streamed(tokens_of(("aé中😀" * 50).encode() + b"\x80" * 50), counted)
    assert max(lengths) <= 64


@pytest.fixture(scope="session")
def smollm2_model() -> Iterator[minseek.Model]:
    if alias_file("smollm2") is None:
        pytest.skip("smollm2 is not here: minseek models --get smollm2")
    return minseek.load("smollm2", dtype="bfloat16")


@pytest.mark.smollm2
@given(
    text=TEXTS
    | st.sampled_from(["naïve café — 日本語のテキスト 👩‍💻👍🏽 e\u0301", " leading", "a  b .  c", "don't , you ?"])
)
@settings(deadline=None, max_examples=50)
def test_the_pieces_of_smollm2s_tokens_add_up_to_the_text(smollm2_model: minseek.Model, text: str) -> None:
    tokens = smollm2_model.encode(text)
    whole = smollm2_model.decode(tokens)  # not always the text: some bytes are unknown to this tokenizer
    assert "".join(streamed(tokens, smollm2_model.decode)) == whole


TAGS = ["</think>", "<think>", "[/THINK]", "<<>", "aab", "<"]
FRAGMENTS = ["<", "</", "think", ">", "</think", "/think>", "</think>", "<think>", "[/THINK]", "a", "b", "é", ""]


def held(tag: str, text: str) -> int:
    """Characters at the end of a text that could be the beginning of a tag."""
    return max(n for n in range(len(tag)) if text.endswith(tag[:n]))


@given(st.sampled_from(TAGS), st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=120)
def test_a_tag_is_found_wherever_the_text_is_cut(tag: str, fragments: list[str], rng: random.Random) -> None:
    text = "".join(fragments)
    cuts = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, 8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    watcher, released, pushed = TagWatcher(tag), "", ""
    for piece in pieces:
        released += watcher.push(piece)
        pushed += piece
        assert watcher.found == (tag in pushed)
        before, _, after = pushed.partition(tag)
        if watcher.found:
            assert (released, watcher.rest) == (before, after)
        else:
            assert released == pushed[: len(pushed) - held(tag, pushed)], (
                "held back more or less than a tag's beginning"
            )
            assert watcher.rest == ""
    released += watcher.flush()
    before, found, after = text.partition(tag)
    assert released == before
    assert watcher.rest == after
    assert watcher.flush() == ""
    ends = accumulate(len(piece) for piece in pieces)
    assert watcher.pieces_before() == sum(not found or end <= len(before) for end in ends)


@given(st.lists(st.text("ab<", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(st.text("ab<", max_size=3)))
def test_of_several_tags_the_one_that_is_complete_first_counts(tags: list[str], pieces: list[str]) -> None:
    watcher, released, pushed = TagWatcher(*tags), "", ""
    for piece in pieces:
        released += watcher.push(piece)
        pushed += piece
        places = [pushed.find(tag) for tag in tags if tag in pushed]
        assert watcher.found == bool(places)
        if places:
            assert released == pushed[: min(places)]
            return
        assert released == pushed[: len(pushed) - max(held(tag, pushed) for tag in tags)]
    assert released + watcher.flush() == pushed


@pytest.mark.parametrize("tag", [None, ""])
@given(pieces=st.lists(st.sampled_from(FRAGMENTS), max_size=6))
def test_without_a_tag_all_text_passes_at_once(tag: str | None, pieces: list[str]) -> None:
    watcher = TagWatcher(tag)
    assert [watcher.push(piece) for piece in pieces] == pieces
    assert (watcher.found, watcher.rest, watcher.flush(), watcher.pieces_before()) == (False, "", "", len(pieces))


def test_a_piece_that_shares_text_with_the_tag_is_not_before_it() -> None:
    watcher = TagWatcher("</think>")
    assert [watcher.push(piece) for piece in ("so", ".</", "th", "ink> 4")] == ["so", ".", "", ""]
    assert (watcher.found, watcher.rest, watcher.pieces_before()) == (True, " 4", 1)
