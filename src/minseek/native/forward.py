"""The library of a model's forward pass and of evictions, for each dtype of weights."""

from __future__ import annotations

from ctypes import c_float, c_int64
from pathlib import Path
from typing import TYPE_CHECKING

from minseek.native.library import Kernels, NativeStatus, loaded

if TYPE_CHECKING:
    import torch

_FOLDER = Path(__file__).with_name("kernels")
_SOURCES = ("step.c", "forward.c", "evict.c")
_KERNELS = {
    "bfloat16": Kernels("forward", _FOLDER, _SOURCES, ("-DWEIGHT_BF16",)),
    "float32": Kernels("forward", _FOLDER, _SOURCES),
}


def native_status(dtype: torch.dtype) -> NativeStatus:
    """Find or build the library for a dtype; without it, decoding takes the (slower) PyTorch path."""
    name = str(dtype).removeprefix("torch.")
    if name not in _KERNELS:
        return NativeStatus(None, f"there is none for {name}")
    status = loaded(_KERNELS[name])
    if status.library is not None:
        status.library.scratch_floats.restype = status.library.forward_bytes.restype = c_int64
        status.library.read_all.restype = c_float
    return status
