"""The library of a model's forward pass and of evictions, for each dtype of weights."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from minseek.native.library import NativeStatus, check_struct_sizes, loaded
from minseek.native.sources import Kernels
from minseek.native.structs import STRUCTURES

if TYPE_CHECKING:
    import torch

_FOLDER = Path(__file__).with_name("kernels")
_SOURCES = ("step.c", "forward.c", "rows.c", "evict.c")
KERNELS = {
    "bfloat16": Kernels("forward", _FOLDER, _SOURCES, ("-DWEIGHT_BF16",)),
    "float32": Kernels("forward", _FOLDER, _SOURCES),
}


def native_status(dtype: torch.dtype) -> NativeStatus:
    """Find or build the library for a dtype; without it, the forward pass runs in PyTorch, more slowly.

    Raises
    ------
    InputError
        If ``MINSEEK_ISA`` is unknown or this processor does not have it.
    RuntimeError
        If a structure is not the same in C and in Python.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in KERNELS:
        return NativeStatus(None, f"there is none for {name}")
    status = loaded(KERNELS[name])
    if status.library is not None:
        _prepare(status.library)
    return status


@cache
def _prepare(library: ctypes.CDLL) -> None:
    check_struct_sizes(library, STRUCTURES)
    library.scratch_floats.restype = library.forward_bytes.restype = c_int64
    library.read_all.restype = c_float
    library.dequantize_rows.restype = None
    library.step.restype = library.forward.restype = library.value_error.restype = library.keep_pairs.restype = None
