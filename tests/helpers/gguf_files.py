"""Small GGUF files, written by gguf's own writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

from minseek.quant import BLOCK_FORMATS, PackedTensor


def random_blocks(name: str, rows: int, blocks: int, seed: int = 0) -> PackedTensor:
    """Random blocks in the named format; a cleared bit keeps every fp16 scale finite."""
    form = BLOCK_FORMATS[name]
    data = np.random.default_rng(seed).integers(0, 256, (rows, blocks * form.block_bytes), dtype=np.uint8)
    return PackedTensor(form, rows, blocks * form.block_size, data & 0xBF)


def write_tensors(
    file: Path, tensors: dict[str, PackedTensor], add: Callable[[GGUFWriter], object] = lambda writer: None
) -> Path:
    """A file with those tensors and with the metadata that `add` adds."""
    writer = GGUFWriter(file, "llama")
    add(writer)
    for name, packed in tensors.items():
        writer.add_tensor(name, packed.data, raw_dtype=GGMLQuantizationType(packed.format.gguf_type))
    return close(writer, file)


def close(writer: GGUFWriter, file: Path) -> Path:
    """Write everything that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
