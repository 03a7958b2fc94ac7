"""Tokenizers built from the metadata of GGUF files."""

from __future__ import annotations

from typing import Any

from minseek.errors import InputError
from minseek.models.loading.gguf.config import CONTROL, USER_DEFINED, token_types
from minseek.models.loading.gguf.pre_tokenizers import KNOWN, WHOLE_WORDS_FIRST, pre_tokenizer
from minseek.quant import GGUFFile

_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SPACE = "▁"  # SentencePiece's spelling of a space


def build_tokenizer(file: GGUFFile) -> tuple[Any, dict[str, Any]]:
    """Tokenizer of the `tokenizers` library, and what transformers must know: special tokens and the chat template.

    Control tokens become special tokens and user-defined ones added tokens, as in the models' own tokenizer.json files.

    Raises
    ------
    InputError
        If the metadata holds no tokenizer, or one of an unknown kind: other tokens would be computed silently.
    """
    kind = file.required("tokenizer.ggml.model", str)
    tokens = file.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise InputError(f"{file.path} is incomplete: its metadata lacks tokenizer.ggml.tokens")
    if kind == "gpt2":
        tokenizer = _byte_level(file, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece(file, tokens)
    else:
        raise InputError(f"{file.path} is not supported: its tokenizer is of the kind {kind!r:.40}; gpt2 and llama are")
    _add_tokens(file, tokens, tokenizer)
    settings = {name: _token(file, tokens, key) for name, key in _NAMED.items()}
    settings = {name: token for name, token in settings.items() if token is not None}
    pre = file.metadata.get("tokenizer.ggml.pre")
    _prepend_bos(file, tokenizer, settings, default=kind == "llama" or pre in WHOLE_WORDS_FIRST)
    settings["chat_template"] = file.optional("tokenizer.chat_template", str, "") or None
    return tokenizer, settings


def _byte_level(file: GGUFFile, tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    name = file.optional("tokenizer.ggml.pre", str, "default")
    if name == "default" and file.architecture.startswith("qwen"):
        name = "qwen2"  # files from before llama.cpp stored names
    if name not in KNOWN:
        raise InputError(
            f"{file.path} is not supported: its pre-tokenizer {name!r:.40} is unknown, so that tokens would differ "
            "from the model's own: convert the model again with a current llama.cpp, or use its safetensors directory"
        )
    merges = [merge.partition(" ")[::2] for merge in file.strings("tokenizer.ggml.merges") or []]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if any(not right or " " in right for _, right in merges):
        raise InputError(f"{file.path} is damaged: an entry of its tokenizer.ggml.merges is no pair of tokens")
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in WHOLE_WORDS_FIRST)
    except Exception as error:  # a merge of unknown tokens; the library has no exceptions of its own
        raise InputError(f"{file.path} is damaged: its tokenizer cannot be built: {error}") from None
    tokenizer = Tokenizer(model)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile, tokens: list[str]) -> Any:
    """BPE whose merges follow from the scores of the pieces, with a token for each byte that no piece covers."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens) or isinstance(scores, str):
        raise InputError(f"{file.path} is damaged: its {len(tokens)} tokens have no scores")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = _merges(vocabulary, dict(zip(tokens, map(float, scores), strict=True)))
    unknown = _token(file, tokens, "unknown")
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefixed = file.optional("tokenizer.ggml.add_space_prefix", bool, True)
    steps: list[Any] = [normalizers.Replace(" ", _SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), *steps] if prefixed else steps)
    undo: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefixed else undo)
    return tokenizer


def _merges(vocabulary: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs of pieces that make another one, the pair with the best result first."""
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                found.append((-score, -len(left), -len(right), vocabulary[left], vocabulary[right], left, right))
    found.sort(key=lambda entry: entry[:5])
    return [entry[5:] for entry in found]


def _add_tokens(file: GGUFFile, tokens: list[str], tokenizer: Any) -> None:
    from tokenizers import AddedToken

    types = token_types(file)
    if types is None:
        return
    if len(types) != len(tokens):
        raise InputError(f"{file.path} is damaged: it has {len(tokens)} tokens and {len(types)} types of them")
    found = [
        (token, kind) for token, kind in zip(tokens, types.tolist(), strict=True) if kind in (CONTROL, USER_DEFINED)
    ]
    added = [AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in found]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])


def _prepend_bos(file: GGUFFile, tokenizer: Any, settings: dict[str, Any], *, default: bool) -> None:
    """Add tokens at the beginning and the end of texts without a chat template, where the metadata says so."""
    from tokenizers.processors import TemplateProcessing

    bos, eos = settings.get("bos_token"), settings.get("eos_token")
    first = bos if file.optional("tokenizer.ggml.add_bos_token", bool, default) else None
    last = eos if file.optional("tokenizer.ggml.add_eos_token", bool, False) else None
    parts = [part for part in (first, "$A", last) if part is not None]
    special = {token: tokenizer.token_to_id(token) for token in parts if token != "$A"}
    if special:
        tokenizer.post_processor = TemplateProcessing(single=parts, special_tokens=list(special.items()))


def _token(file: GGUFFile, tokens: list[str], key: str) -> str | None:
    index = file.optional(f"tokenizer.ggml.{key}_token_id", int, -1)
    return tokens[index] if 0 <= index < len(tokens) else None
