"""Tokenizers of GGUF files: pre-tokenizers, SentencePiece merges, added tokens, and the cache of built ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from transformers import AutoTokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from minseek import InputError
from minseek.models import alias_file
from minseek.models.loading.gguf import tokenizer_cache
from minseek.models.loading.gguf.pre_tokenizers import KNOWN, pre_tokenizer
from minseek.models.loading.gguf.tokenizer import build_tokenizer
from minseek.models.loading.gguf.tokenizer_cache import tokenizer_of
from minseek.quant import open_gguf
from tests.helpers.gguf_files import PIECES, close, sentencepiece_file, write_model
from tests.helpers.odd_text import ODD_LINES, ODD_PAGE

TEXT = st.text(
    st.sampled_from("aZéß1７²½'sSlLtT .,!-/\n\r\t\u00a0中あ한🙂\u0301_$") | st.characters(exclude_categories=["Cs"])
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


@pytest.mark.parametrize("name", sorted(GGUF_PRE_TOKENIZER_SPLITS.keys() & KNOWN))
def test_pre_tokenizers_split_as_those_of_transformers(name: str) -> None:
    split = Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated")
    theirs = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    ours = pre_tokenizer(name)

    @given(TEXT)
    @settings(max_examples=60, deadline=None)
    def same(text: str) -> None:
        assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)

    same()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_pre_tokenizers_lose_nothing(name: str) -> None:
    spans = [span for _, span in pre_tokenizer(name).pre_tokenize_str(ODD_PAGE)]
    assert spans[0][0] == 0
    assert spans[-1][1] == len(ODD_PAGE)
    assert all(before[1] >= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("gpt-2", ["a", "Ġ", "Ġ12", "345", "'s"]),
        ("smollm", ["a", "ĠĠ", "1", "2", "3", "4", "5", "'s"]),
        ("llama-bpe", ["a", "Ġ", "Ġ", "123", "45", "'s"]),
        ("qwen2", ["a", "Ġ", "Ġ", "1", "2", "3", "4", "5", "'s"]),
    ],
)
def test_numbers_are_divided_as_the_model_was_trained(name: str, pieces: list[str]) -> None:
    if name == "gpt-2":
        pieces = ["a", "Ġ", "Ġ12345", "'s"]
    assert [piece for piece, _ in pre_tokenizer(name).pre_tokenize_str("a  12345's")] == pieces


# SentencePiece


def merged_by_score(text: str) -> list[str]:
    """SentencePiece's BPE: of all neighbors that make a piece, the one of the best score is merged, leftmost first."""
    symbols = list(text)
    while True:
        pairs = [(PIECES[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in PIECES]
        if not pairs:
            return symbols
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@given(st.text("ab ", max_size=12))
@settings(max_examples=100, deadline=None)
def test_sentencepiece_merges_by_score(sentencepiece: Any, text: str) -> None:
    expected = merged_by_score("▁" + text.replace(" ", "▁")) if text else []
    assert sentencepiece.encode(text, add_special_tokens=False).tokens == expected
    assert sentencepiece.decode(sentencepiece.encode(text).ids) == text


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_tokenizer(open_gguf(sentencepiece_file(tmp_path_factory.mktemp("spm") / "spm.gguf")))[0]


def test_bytes_added_tokens_and_bos(sentencepiece: Any) -> None:
    assert sentencepiece.encode("é").tokens == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert sentencepiece.encode("a<tool>b", add_special_tokens=False).tokens == ["▁a", "<tool>", "▁", "b"]
    assert sentencepiece.decode(sentencepiece.encode("a é b").ids) == "a é b"


def test_a_space_is_prefixed_and_bos_added_where_the_metadata_says(tmp_path: Path) -> None:
    def add(writer: GGUFWriter) -> None:
        writer.add_add_space_prefix(False)
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(True)

    tokenizer = tokenizer_of(open_gguf(sentencepiece_file(tmp_path / "plain.gguf", add)))
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("ab")) == ["ab", "</s>"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")


def test_scores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "bad.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a", "b"])
    writer.add_array("tokenizer.ggml.scores", [1.0])
    with pytest.raises(InputError, match="2 tokens have no scores"):
        build_tokenizer(open_gguf(close(writer, tmp_path / "bad.gguf")))


# the cache


def test_a_tokenizer_is_built_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = open_gguf(write_model(tmp_path / "tiny.gguf", "qwen2"))
    first = tokenizer_of(file)
    monkeypatch.setattr(tokenizer_cache, "build_tokenizer", lambda _: pytest.fail("it was built again"))
    again = tokenizer_of(file)
    assert again.encode(ODD_PAGE) == first.encode(ODD_PAGE)
    assert again.chat_template == first.chat_template
    assert (again.eos_token, again.all_special_tokens) == (first.eos_token, first.all_special_tokens)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("ending", ["json", "settings"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b.replace(b"a", b"b", 1)])
def test_a_damaged_one_is_built_again(
    tmp_path: Path, cache: Path, ending: str, damage: Callable[[bytes], bytes]
) -> None:
    file = open_gguf(write_model(tmp_path / "tiny.gguf", "qwen2"))
    expected = tokenizer_of(file).encode(ODD_PAGE)
    (kept,) = cache.glob(f"*.{ending}")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert tokenizer_of(file).encode(ODD_PAGE) == expected
    assert kept.read_bytes() == whole


def test_another_tokenizer_is_another_file(tmp_path: Path, cache: Path) -> None:
    file = write_model(tmp_path / "tiny.gguf", "qwen2")
    tokenizer_of(open_gguf(file))
    file.unlink()
    tokenizer_of(open_gguf(write_model(file, "qwen2", lambda w: w.add_string("general.name", "other"))))
    assert len(list(cache.glob("*.json"))) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINSEEK_CACHE", str(tmp_path / "file"))
    assert tokenizer_of(open_gguf(write_model(tmp_path / "tiny.gguf", "qwen2"))).encode("ab")


# SmolLM2


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.skipif(alias_file("smollm2") is None, reason="smollm2 is not here: minseek models --get smollm2")
def test_tokens_of_smollm2_are_those_of_transformers() -> None:
    """But for digits, which transformers' reader of GGUF files does not divide from spaces as the model does."""
    file = SMOLLM2
    assert file is not None
    ours = tokenizer_of(open_gguf(file))
    theirs = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    for line in [*ODD_LINES, ODD_PAGE]:
        ids = ours.encode(line, add_special_tokens=False)
        assert ours.decode(ids) == line
        if not any(character.isnumeric() for character in line):
            assert ids == theirs.encode(line, add_special_tokens=False)
    assert len(ours) == len(theirs)
    assert ours.all_special_ids == theirs.all_special_ids
    digits = "The year 2024, 3.14159, 1,234,567 and  42   007\t99 bottles"
    assert ours.encode(digits) == LLAMA_CPP_IDS


SMOLLM2 = alias_file("smollm2")  # found before a test has a cache folder of its own
LLAMA_CPP_IDS = [
    504,
    713,
    216,
    34,
    32,
    34,
    36,
    28,
    216,
    35,
    30,
    33,
    36,
    33,
    37,
    41,
    28,
    216,
    33,
    28,
    34,
    35,
    36,
    28,
    37,
    38,
    39,
    284,
    256,
    36,
    34,
    333,
    32,
    32,
    39,
    197,
    41,
    41,
    13577,
]
"""Token ids of that text from llama-cpp-python 0.3.36."""
