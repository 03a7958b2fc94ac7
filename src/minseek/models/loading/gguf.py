"""GGUF files, dequantized once and cached: packed weights would decode many times slower without their own kernels."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from minseek.errors import InputError, MinseekWarning
from minseek.models.config import check_config, from_transformers
from minseek.models.loading.transformers_quirks import check_complete, parsed_once, quiet, readable_errors
from minseek.native import cache_folder
from minseek.units import format_bytes

MODEL_CONFIG_FILE = "minseek.json"
"""Config stored with converted weights, to load them without transformers' modeling code, in half the time."""


def converted_folders() -> list[Path]:
    """Folders of all converted files, and of conversions that were killed; removing them is safe, they are remade."""
    return sorted(folder for folder in (cache_folder() / "dense").glob("*") if folder.is_dir())


def dense_folder(file: Path, dtype: torch.dtype) -> Path:
    """Directory with the dense model of a GGUF file, converted at first use and cached.

    Warns with the packed and the dense size.

    Raises
    ------
    InputError
        If the file is not a GGUF file that can be read, or its architecture is not supported.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{file} is not a GGUF file: it does not begin with the letters GGUF")
    status = file.stat()
    key = f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{dtype}\0v3"
    folder = cache_folder() / "dense" / f"{file.stem}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    kind = str(dtype).removeprefix("torch.")
    if not folder.is_dir():
        _convert(file, dtype, folder)
        warnings.warn(
            f"{file.name} was converted to {kind}, once, and is kept in {folder}", MinseekWarning, stacklevel=3
        )
    size = sum(part.stat().st_size for part in folder.glob("*.safetensors"))
    warnings.warn(
        f"{file.name}: {format_bytes(status.st_size)} of packed weights take {format_bytes(size)} of memory as {kind}",
        MinseekWarning,
        stacklevel=3,
    )
    return folder


def _convert(file: Path, dtype: torch.dtype, folder: Path) -> None:
    """Write the dense model to a temporary folder, then rename it into place atomically."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with readable_errors(f"{file} could not be read as a GGUF model"), quiet(), parsed_once(file) as reader:
        check_config(AutoConfig.from_pretrained(**where))
        _check_reader(file, reader)
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model, found = AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype, quantization_config=GgufConfig(dequantize=True), output_loading_info=True
        )
    check_complete(file.name, found)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        model.config.dtype = dtype
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        with quiet():
            model.save_pretrained(made, max_shard_size="1TB")
            tokenizer.save_pretrained(made)
        from_transformers(model).write(made / MODEL_CONFIG_FILE)
        try:
            os.rename(made, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster and wrote the same
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _check_reader(file: Path, reader: Any) -> None:
    """Refuse features that transformers' GGUF reader drops silently."""
    fields = {name: field for name, field in reader.fields.items() if name.endswith(("scaling.type", "split.count"))}
    scaling = next((f.contents() for name, f in fields.items() if name.endswith("rope.scaling.type")), "none")
    if scaling not in ("none", "") or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        found = scaling if scaling not in ("none", "") else "rope_freqs.weight"
        raise InputError(
            f"{file} scales its rotary embedding ({found}), and transformers' GGUF reader loses that: use the model's "
            "safetensors directory"
        )
    parts = next((f.contents() for name, f in fields.items() if name.endswith("split.count")), 1)
    if parts > 1:
        raise InputError(f"{file} is one of {parts} parts: join them with llama-gguf-split --merge")
