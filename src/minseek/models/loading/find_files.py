"""Files of a model by its name."""

from __future__ import annotations

from pathlib import Path

from minseek.models.loading.download import local_files
from minseek.models.loading.load import find_source
from minseek.models.loading.weight_files import weight_files


def find_files(name: str) -> Path:
    """Find a model by its name: a GGUF file, or a directory with a configuration, a tokenizer and safetensors files.

    A model of the Hub is downloaded; see `minseek.load`.

    Raises
    ------
    InputError
        If there is no such model, or its weights are not in such files; see `weight_files`.
    """
    source = local_files(name, find_source(name))
    if source.is_dir():
        weight_files(source)
    return source
