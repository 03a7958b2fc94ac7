"""Tokenizers of GGUF files, built once and kept in the cache folder: building takes seconds, reading a part of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from minseek.models.loading.gguf.tokenizer import build_tokenizer
from minseek.native import cache_folder
from minseek.quant import GGUFFile

_VERSION = 1  # of everything in tokenizer.py and pre_tokenizers.py: a change there makes kept tokenizers stale


def tokenizer_of(file: GGUFFile) -> Any:
    """The transformers tokenizer of a GGUF file; a kept one is used if the metadata is the same and it is undamaged.

    Raises
    ------
    InputError
        If the tokenizer is not supported.
    """
    from transformers import PreTrainedTokenizerFast

    kept = cache_folder() / "tokenizers" / f"{file.metadata_hash}-v{_VERSION}.json"
    settings = _read_settings(kept)
    if settings is not None:
        source: dict[str, Any] = {"tokenizer_file": str(kept)}
    else:
        tokenizer, settings = build_tokenizer(file)
        _keep(kept, tokenizer.to_str().encode(), settings)
        source = {"tokenizer_object": tokenizer}
    return PreTrainedTokenizerFast(**source, clean_up_tokenization_spaces=False, **settings)


def _read_settings(kept: Path) -> dict[str, Any] | None:
    """Settings of a kept tokenizer, or None if there is none or its checksum is wrong."""
    try:
        stored = json.loads(_settings_file(kept).read_bytes())
        digest = hashlib.sha256(kept.read_bytes()).hexdigest()
        return dict(stored["settings"]) if stored["sha256"] == digest else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _keep(kept: Path, tokenizer: bytes, settings: dict[str, Any]) -> None:
    """Write both files; where that fails, as on a full disk, the tokenizer is built again next time."""
    stored = {"sha256": hashlib.sha256(tokenizer).hexdigest(), "settings": settings}
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, tokenizer)
        _write(_settings_file(kept), json.dumps(stored).encode())


def _settings_file(kept: Path) -> Path:
    return kept.with_suffix(".settings")


def _write(file: Path, content: bytes) -> None:
    """Write atomically."""
    handle, new = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(new, file)
    except OSError:
        os.unlink(new)
        raise
