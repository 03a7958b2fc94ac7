"""Metadata of a GGUF file from a tokenizer of transformers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection
from typing import Any

from minseek.errors import InputError, MinseekWarning
from minseek.models.loading.gguf.pre_tokenizers import KNOWN, WHOLE_WORDS_FIRST, pre_tokenizer
from minseek.quant.gguf_writer import encode_entry

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_PREFERRED = ("qwen2", "llama-bpe", "smollm", "gpt-2", "tekken", "gpt-4o", "deepseek-v3")
_NAMED = {"bos": "bos_token_id", "eos": "eos_token_id", "unknown": "unk_token_id", "padding": "pad_token_id"}
_ENDS = ("eos", "eot", "eom")
_PAGE = """def f(x):\n\treturn  x**2 + 3.14159 if x>=10 else {"a": [1, 22, 333, 4444]}\r\n
It's 2024; we'VE 1,234,567 reasons,   don't we?  A1b2  42 \n\n\n  中文，日本語カナ 한국어 naïve Straße ΑΒγ
עברית हिन्दी\u0301 HTTPServer camelCase snake_case ----===>>> $$ !? 🙂👩‍👧 ½ x² Ⅷ \u00a0\u2003 end  \t ---/\n//\n"""


def tokenizer_entries(tokenizer: Any, vocab_size: int, eos_token_ids: Collection[int]) -> list[bytes]:
    """Entries of the tokenizer and the chat template; ids from the tokenizer's end up to `vocab_size` are padding.

    Raises
    ------
    InputError
        If the tokenizer is none that llama.cpp has: other tokens would be computed from the file.
    """
    backend = tokenizer.backend_tokenizer
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise InputError(f"a GGUF file cannot hold this tokenizer: it is {model['type']}, and only BPE is supported")
    tokens = [f"[PAD{index}]" for index in range(max(vocab_size, len(tokenizer)))]
    types = [_UNUSED] * len(tokens)
    for token, index in model["vocab"].items():
        tokens[index], types[index] = token, _NORMAL
    for added in content["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if model.get("byte_fallback"):
        entries = _sentencepiece(backend, model, merges, tokens, types)
    else:
        entries = [
            encode_entry("tokenizer.ggml.model", "string", "gpt2"),
            encode_entry("tokenizer.ggml.pre", "string", _pre_tokenizer_name(backend, content)),
            encode_entry("tokenizer.ggml.merges", "string", merges),
        ]
    entries += [
        encode_entry("tokenizer.ggml.tokens", "string", tokens),
        encode_entry("tokenizer.ggml.token_type", "int32", types),
        *_special_tokens(tokenizer, eos_token_ids),
    ]
    if isinstance(tokenizer.chat_template, str):
        entries.append(encode_entry("tokenizer.chat_template", "string", tokenizer.chat_template))
    return entries


def _special_tokens(tokenizer: Any, eos_token_ids: Collection[int]) -> list[bytes]:
    ids = {key: getattr(tokenizer, name) for key, name in _NAMED.items()}
    ends = [*([] if ids["eos"] is None else [ids["eos"]]), *sorted(set(eos_token_ids) - {ids["eos"]})]
    if len(ends) > len(_ENDS):
        warnings.warn(
            f"the model ends its turn with {len(ends)} tokens, and a GGUF file names {len(_ENDS)}: "
            f"{ends[len(_ENDS) :]} are left out",
            MinseekWarning,
            stacklevel=2,
        )
    ids |= dict(zip(_ENDS, ends, strict=False))
    found = list(tokenizer("a").input_ids)
    adds_bos = bool(found) and found[0] == ids["bos"]
    adds_eos = len(found) > 1 and found[-1] == ids["eos"]
    return [
        *(
            encode_entry(f"tokenizer.ggml.{key}_token_id", "uint32", index)
            for key, index in ids.items()
            if index is not None
        ),
        encode_entry("tokenizer.ggml.add_bos_token", "bool", adds_bos),
        encode_entry("tokenizer.ggml.add_eos_token", "bool", adds_eos),
    ]


def _pre_tokenizer_name(backend: Any, content: dict[str, Any]) -> str:
    """llama.cpp's name of a pre-tokenizer that gives the same tokens of a page of odd text."""
    from tokenizers import Tokenizer

    normalizer = (content["normalizer"] or {"type": ""})["type"]
    if normalizer not in ("", "NFC"):
        raise InputError(f"a GGUF file cannot hold this tokenizer: it has the normalizer {normalizer}")
    whole_words = bool(content["model"].get("ignore_merges"))
    names = [*_PREFERRED, *sorted(KNOWN - set(_PREFERRED))]
    names = [
        name
        for name in names
        if (name in WHOLE_WORDS_FIRST) == whole_words and (name == "qwen2") == (normalizer == "NFC")
    ]
    expected = backend.encode(_PAGE, add_special_tokens=False).ids
    candidate = Tokenizer.from_str(backend.to_str())
    for name in names:
        candidate.pre_tokenizer = pre_tokenizer(name)
        if candidate.encode(_PAGE, add_special_tokens=False).ids == expected:
            return name
    raise InputError(
        "a GGUF file cannot hold this tokenizer: llama.cpp has no pre-tokenizer that divides text as it does"
    )


def _sentencepiece(
    backend: Any, model: dict[str, Any], merges: list[str], tokens: list[str], types: list[int]
) -> list[bytes]:
    """Pieces get scores by which llama.cpp merges them in the order of the tokenizer's merges."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    scores = [
        0.0 if types[index] != _NORMAL else -float(ranks.get(token, len(merges))) for index, token in enumerate(tokens)
    ]
    for index, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and types[index] == _NORMAL:
            types[index] = _BYTE
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = _UNKNOWN
    prefixed = backend.encode("a", add_special_tokens=False).tokens[:1] != ["a"]
    return [
        encode_entry("tokenizer.ggml.model", "string", "llama"),
        encode_entry("tokenizer.ggml.scores", "float32", scores),
        encode_entry("tokenizer.ggml.add_space_prefix", "bool", prefixed),
    ]
