"""The kernels in C, for tensors in main memory."""

from __future__ import annotations

import ctypes
from ctypes import c_double, c_float, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import astuple, fields
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from minseek.lowbit.grid import Grid
from minseek.native import Kernels, check_struct_sizes, loaded

KERNELS = Kernels("lowbit", Path(__file__).with_name("kernels"), ("lowbit.c",), ("-Wno-psabi",))


class _Grid(ctypes.Structure):
    """`grid` of kernels/grid.h."""

    _fields_ = tuple((f.name, c_double if f.type == "float" else c_int64) for f in fields(Grid))


class SGDStep(ctypes.Structure):
    """`sgd_step` of kernels/sgd.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("weights", "gradient", "momenta")),
        ("n", c_int64),
        *((name, c_uint64) for name in ("seed", "weights_stream", "momenta_stream")),
        *((name, c_float) for name in ("lr", "momentum", "one_minus_dampening", "weight_decay")),
        *((name, c_int32) for name in ("first_step", "nesterov", "maximize", "weights_mode", "momenta_mode")),
        ("threads", c_int32),
    )


def library() -> ctypes.CDLL | None:
    """The kernels; None where there are none or MINSEEK_NATIVE=0."""
    found = loaded(KERNELS).library
    return None if found is None else _checked(found)


@cache
def _checked(found: ctypes.CDLL) -> ctypes.CDLL:
    check_struct_sizes(found, {"grid": _Grid, "sgd_step": SGDStep})
    return found


@cache
def structure(grid: Grid) -> ctypes.Structure:
    """A grid in the layout of the kernels."""
    return _Grid(*astuple(grid))


def round_native(kernels: ctypes.CDLL, x: Tensor, out: Tensor, grid: Grid, seed: int, stream: int, first: int) -> None:
    """Round contiguous float32 or float64 numbers into `out`, which may be `x`."""
    kernel = kernels.round_all_float32 if x.dtype == torch.float32 else kernels.round_all_float64
    kernel(
        *(c_void_p(x.data_ptr()), c_void_p(out.data_ptr()), c_int64(x.numel()), ctypes.byref(structure(grid))),
        *(c_uint64(seed), c_uint64(stream), c_uint64(first), c_int32(torch.get_num_threads())),
    )
