"""The step of bfloat16 weights in one pass over them, in C."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from minseek.lowbit.formats import bf16
from minseek.lowbit.grid import ROUNDINGS, Grid
from minseek.lowbit.native import SGDStep, library
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
    step = SGDStep(
        weights=p.data_ptr(),
        gradient=gradient.data_ptr(),
        momenta=None if buffer is None else buffer.data_ptr(),
        n=p.numel(),
        seed=seed,
        weights_stream=stream_of(tensor, "weights"),
        momenta_stream=stream_of(tensor, "momenta"),
        lr=group["lr"],
        momentum=group["momentum"],
        one_minus_dampening=1 - group["dampening"],
        weight_decay=group["weight_decay"],
        first_step=fresh,
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        weights_mode=weights.mode,
        momenta_mode=momenta.mode,
        threads=torch.get_num_threads(),
    )
    kernels.sgd_bfloat16(ctypes.byref(step))
    return True


def _plain(grid: Grid | None) -> bool:
    """Whether numbers are rounded to bf16 in a way that the kernel knows."""
    if grid is None or ROUNDINGS[grid.mode] not in _MODES:
        return False
    by_chance = ROUNDINGS[grid.mode] == "stochastic"
    whole = (grid.mantissa, grid.least, grid.quantum) == (bf16.mantissa_bits, bf16.least_exponent, bf16.quantum)
    return whole and grid.over > grid.highest and (grid.random_bits == 16 or not by_chance)
