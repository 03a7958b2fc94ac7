"""The kernels in C for tensors in main memory."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from minseek.lowbit.grid import Grid
from minseek.native import Kernels, loaded

_KERNELS = Kernels("lowbit", Path(__file__).with_name("kernels"), ("lowbit.c",), ("-Wno-psabi",))


class _Grid(ctypes.Structure):
    _fields_ = [(f.name, c_double if f.type == "float" else c_int64) for f in fields(Grid)]


def library() -> ctypes.CDLL | None:
    """The kernels; None where there is no compiler or MINSEEK_NATIVE=0."""
    return loaded(_KERNELS).library


@cache
def structure(grid: Grid) -> ctypes.Structure:
    """A grid as C sees it."""
    return _Grid(*astuple(grid))


def round_native(kernels: ctypes.CDLL, x: Tensor, out: Tensor, grid: Grid, seed: int, stream: int, first: int) -> None:
    """Round contiguous float32 or float64 numbers into `out`, which may be `x`."""
    kernel = kernels.round_all_float32 if x.dtype == torch.float32 else kernels.round_all_float64
    kernel(
        *(at(x), at(out), c_int64(x.numel()), ctypes.byref(structure(grid))),
        *(c_uint64(seed), c_uint64(stream), c_uint64(first), threads()),
    )


def at(tensor: Tensor) -> c_void_p:
    """Where a tensor begins."""
    return c_void_p(tensor.data_ptr())


def threads() -> c_int32:
    """As many as PyTorch uses."""
    return c_int32(torch.get_num_threads())
