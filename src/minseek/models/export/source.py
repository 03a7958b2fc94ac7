"""A model whose weights are to be packed: its metadata, and its weights as float32, a few rows at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minseek.errors import InputError
from minseek.models.config import check_config
from minseek.models.export.metadata import ARCHITECTURES, config_entries, rope_divisors
from minseek.models.export.tokenizer_entries import tokenizer_entries
from minseek.models.loading.gguf.config import config_of
from minseek.models.loading.gguf.rotary import FACTORS
from minseek.models.loading.gguf.weights import gguf_name, weight_names
from minseek.models.loading.safetensors_rows import SafetensorsRows
from minseek.models.loading.transformers_quirks import quiet, readable_errors
from minseek.models.loading.weight_files import weight_files
from minseek.quant import open_gguf

_REWRITTEN = ("general.file_type", "general.quantization_version", "general.alignment")


class Source(ABC):
    """A model to pack.

    Attributes
    ----------
    shapes : mapping of str to tuple of int
        Name in GGUF files -> shape, columns last.
    formats : mapping of str to str
        Name of each packed tensor -> its format; empty for a dense model.
    """

    shapes: Mapping[str, tuple[int, ...]]
    formats: Mapping[str, str]

    @abstractmethod
    def entries(self) -> list[bytes]:
        """Entries of metadata, without the format of the weights."""

    @abstractmethod
    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a tensor in llama.cpp's order; a vector has one."""


def open_source(path: Path, name: str) -> Source:
    """The model in a GGUF file or a directory.

    Raises
    ------
    InputError
        If it cannot be read, or is not supported.
    """
    return _FileSource(path) if path.is_file() else _FolderSource(path, name)


class _FileSource(Source):
    def __init__(self, path: Path) -> None:
        self._file = open_gguf(path)
        weight_names(self._file, config_of(self._file))  # refuses what no model is
        self.shapes = self._file.shapes
        self.formats = {n: packed.format.name for n, packed in self._file.tensors.items() if not packed.format.is_dense}

    def entries(self) -> list[bytes]:
        kept = [key for key in self._file.metadata if key not in _REWRITTEN and not key.startswith("split.")]
        return [self._file.stored_entry(key) for key in kept]

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        packed = self._file.tensors[name]
        values = packed.dequantize(first, last)
        if last == packed.rows:
            self._file.release([packed])
        return values


class _FolderSource(Source):
    def __init__(self, folder: Path, name: str) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self._name, self.formats = folder.name if folder.is_dir() else name, {}
        with readable_errors(f"the model {name!r} could not be loaded"), quiet():
            self._config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            check_config(self._config)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._weights = SafetensorsRows(weight_files(folder))
        self._stored = {gguf_name(key): key for key in self._weights.shapes}
        if self._config.tie_word_embeddings:
            self._stored.pop("output.weight", None)
        self._divisors = rope_divisors(self._config)
        self.shapes = {key: self._weights.shapes[stored] for key, stored in self._stored.items()}
        if self._divisors is not None:
            self.shapes |= {FACTORS: self._divisors.shape}
        self._eos_token_ids = _eos_token_ids(folder, self._config)
        if "token_embd.weight" not in self.shapes:
            raise InputError(f"the model {name!r} is incomplete: its files have no embedding")

    def entries(self) -> list[bytes]:
        vocab_size = self.shapes["token_embd.weight"][0]
        return [
            *config_entries(self._config, self._name),
            *tokenizer_entries(self._tokenizer, vocab_size, self._eos_token_ids),
        ]

    def rows(self, name: str, first: int, last: int) -> NDArray[np.float32]:
        if name == FACTORS:
            assert self._divisors is not None
            return self._divisors[None]
        shape, stored = self.shapes[name], self._stored[name]
        if ARCHITECTURES[self._config.model_type] != "llama" or name.split(".")[-2] not in ("attn_q", "attn_k"):
            return self._weights.rows(stored, first, last)
        rows, columns = shape if len(shape) == 2 else (1, shape[0])
        whole = self._weights.rows(stored, 0, rows).reshape(shape)
        return _neighbors(whole, self._head_dim).reshape(rows, columns)[first:last]

    @property
    def _head_dim(self) -> int:
        config = self._config
        return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _neighbors(weight: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Two halves of each head -> pairs of neighbors, which llama.cpp rotates."""
    halves = weight.reshape(-1, 2, head_dim // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _eos_token_ids(folder: Path, config: Any) -> list[int]:
    from transformers import GenerationConfig

    found: set[int] = set()
    sources = [config]
    if (folder / "generation_config.json").is_file():
        sources.append(GenerationConfig.from_pretrained(folder))
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        found |= set(ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids])
    return sorted(found)
