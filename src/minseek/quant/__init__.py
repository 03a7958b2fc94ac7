"""Weights packed in blocks, as GGUF files hold them. Does not import torch."""

from minseek.quant.block_formats import BLOCK_FORMATS, BlockFormat, block_format
from minseek.quant.gguf_file import GGUFFile, open_gguf
from minseek.quant.pack import pack
from minseek.quant.packed import PackedTensor

__all__ = ["BLOCK_FORMATS", "BlockFormat", "GGUFFile", "PackedTensor", "block_format", "open_gguf", "pack"]
