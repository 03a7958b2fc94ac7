"""Weights packed in blocks, as GGUF files hold them. Does not import torch."""

from minseek.quant.block_formats import BLOCK_FORMATS, BlockFormat, block_format
from minseek.quant.packed import PackedTensor

__all__ = ["BLOCK_FORMATS", "BlockFormat", "PackedTensor", "block_format"]
