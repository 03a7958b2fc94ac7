"""The step of bfloat16 weights in one pass over them, in C."""

from __future__ import annotations

from ctypes import c_float, c_int32, c_int64, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor

from minseek.lowbit.formats import bf16
from minseek.lowbit.grid import ROUNDINGS, Grid
from minseek.lowbit.native import at, library, threads
from minseek.lowbit.optim.arithmetic import PrecisionSpec, stream_of

_MODES = ("nearest-even", "stochastic")


def sgd_bf16(
    arithmetic: PrecisionSpec,
    seed: int,
    tensor: int,
    group: dict[str, Any],
    p: Tensor,
    gradient: Tensor,
    buffer: Tensor | None,
    fresh: bool,
) -> bool:
    """Do the step, as `minseek.lowbit.optim.sgd` says it, if there is a kernel for it; whether it was done.

    Kernels there are for bfloat16 tensors in main memory that are rounded to bf16, to nearest even or with 16 random
    bits, gradients and updates as they are.
    """
    if p.dtype != torch.bfloat16 or p.device.type != "cpu" or gradient.dtype != p.dtype:
        return False
    weights, momenta = arithmetic.grid("weights", p.dtype), arithmetic.grid("momenta", p.dtype)
    if arithmetic.gradients or arithmetic.update or not (_plain(weights) and (buffer is None or _plain(momenta))):
        return False
    kernels = library()
    if kernels is None:
        return False
    assert weights is not None
    assert momenta is not None
    kernels.sgd_bfloat16(
        *(at(p), at(gradient), c_void_p(None) if buffer is None else at(buffer), c_int64(p.numel())),
        *(c_float(group[name]) for name in ("lr", "momentum")),
        *(c_float(1 - group["dampening"]), c_float(group["weight_decay"])),
        *(c_int32(flag) for flag in (fresh, group["nesterov"], group["maximize"])),
        *(c_int32(weights.mode), c_int32(momenta.mode), c_uint64(seed)),
        *(c_uint64(stream_of(tensor, role)) for role in ("weights", "momenta")),
        threads(),
    )
    return True


def _plain(grid: Grid | None) -> bool:
    """Whether numbers are rounded to bf16 in a way that the kernel knows."""
    if grid is None or ROUNDINGS[grid.mode] not in _MODES:
        return False
    by_chance = ROUNDINGS[grid.mode] == "stochastic"
    whole = (grid.mantissa, grid.least, grid.quantum) == (bf16.mantissa_bits, bf16.least_exponent, bf16.quantum)
    return whole and grid.over > grid.highest and (grid.random_bits == 16 or not by_chance)
