"""Weights packed in blocks, as GGUF files hold them. Does not import torch.

`quantize` reads whole models: it is defined in `minseek.models.export`, above this package, and imported at first use.
"""

from minseek.lazy import lazy_names
from minseek.quant.block_formats import BLOCK_FORMATS, BlockFormat, block_format
from minseek.quant.gguf_file import GGUFFile, open_gguf
from minseek.quant.pack import pack, pack_matrix
from minseek.quant.packed import PackedTensor

__getattr__, __dir__ = lazy_names(__name__, {"minseek.models.export.quantize": ("quantize",)})
__all__ = [
    "BLOCK_FORMATS",
    "BlockFormat",
    "GGUFFile",
    "PackedTensor",
    "block_format",
    "open_gguf",
    "pack",
    "pack_matrix",
    "quantize",
]
