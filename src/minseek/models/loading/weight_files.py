"""Files of a model's directory that hold its weights."""

from __future__ import annotations

import json
from pathlib import Path

from minseek.errors import InputError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGE = (".safetensors", ".bin", ".gguf", ".model", "tokenizer.json")  # ends of names that repositories keep in LFS


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of the weights: those that transformers chooses, in the order in which it reads them.

    They are the file that ``transformers_weights`` of the configuration names, else ``model.safetensors``, else the
    files in ``model.safetensors.index.json``. Others, such as ``consolidated.safetensors`` or shards of an earlier
    version, do not belong to the model. Of a tensor in several files the last one counts.

    Raises
    ------
    InputError
        If there are none, the index is damaged, or a file is missing.
    """
    given = _read_json(folder / "config.json").get("transformers_weights")
    own = _SINGLE if (folder / _SINGLE).is_file() else _INDEX
    name = given if isinstance(given, str) else own
    if not (folder / name).is_file():
        if isinstance(given, str):
            raise InputError(f"the model is incomplete: its configuration names {given}, which {folder} lacks")
        if stored := sorted(file.name for file in folder.glob("*.safetensors")):
            raise InputError(f"{folder} has neither {_SINGLE} nor {_INDEX}: rename {stored[0]} if it is the model")
        raise InputError(f"{folder} has no .safetensors files: only these can be tuned")
    if not name.endswith(".index.json"):
        return [folder / name]
    shards = _read_json(folder / name).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{folder / name} is damaged: it has no weight_map from tensors to files")
    files = [folder / shard for shard in sorted(set(shards.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(f"the model is incomplete: its index names {missing[0]}, which {folder} lacks")
    return files


def check_downloaded(path: Path) -> None:
    """Refuse a model whose files are pointers of Git LFS, as a clone without Git LFS leaves them.

    Parameters
    ----------
    path : Path
        A file, or a directory with the files of a model.

    Raises
    ------
    InputError
        If a file is such a pointer.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.name.endswith(_LARGE) and file.is_file():
            with file.open("rb") as stream:
                if stream.read(len(_POINTER)) == _POINTER:
                    raise InputError(
                        f"{file} is a Git LFS pointer in place of the file itself: run git lfs pull in its repository"
                    )


def _read_json(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
