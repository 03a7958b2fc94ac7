"""Files of a model by its name."""

from __future__ import annotations

from pathlib import Path

from minseek.models.loading.load import find_source
from minseek.models.loading.transformers_quirks import quiet, readable_errors
from minseek.models.loading.weight_files import weight_files

_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_COPIES = ["consolidated*"]  # the same weights once more, in the format of their makers


def find_files(name: str) -> Path:
    """Find a model by its name: a GGUF file, or a directory with a configuration, a tokenizer and safetensors files.

    A model of the Hub is downloaded; see `minseek.load`.

    Raises
    ------
    InputError
        If there is no such model, or its weights are not in such files; see `weight_files`.
    """
    source = find_source(name)
    if source.is_file():
        return source
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        with readable_errors(f"the model {name!r} could not be loaded"), quiet(bars=True):
            source = Path(
                snapshot_download(source.as_posix(), allow_patterns=list(_DOWNLOADED), ignore_patterns=_COPIES)
            )
    weight_files(source)
    return source
