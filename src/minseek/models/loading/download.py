"""Download of a model's files from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from minseek.models.loading.transformers_quirks import quiet, readable_errors

_DOWNLOADED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_COPIES = ["consolidated*"]  # the same weights once more, in the format of their makers


def local_files(name: str, source: Path) -> Path:
    """The file or directory itself, or the directory with the downloaded files of a Hub id.

    Raises
    ------
    InputError
        If they cannot be downloaded.
    """
    if source.exists():
        return source
    from huggingface_hub import snapshot_download

    with readable_errors(f"the model {name!r} could not be loaded"), quiet(bars=True):
        return Path(snapshot_download(source.as_posix(), allow_patterns=list(_DOWNLOADED), ignore_patterns=_COPIES))
