"""SGD step of bfloat16 weights in C, in one pass over them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from minseek.lowbit.formats import bf16
from minseek.lowbit.grid import ROUNDINGS, Grid
from minseek.lowbit.native import SGDStep, library
from minseek.lowbit.optim.precision import PrecisionSpec, stream_of

_MODES = ("nearest-even", "stochastic")


def sgd_bf16(
    precision: PrecisionSpec,
    seed: int,
    tensor: int,
    options: dict[str, Any],
    p: Tensor,
    gradient: Tensor,
    buffer: Tensor | None = None,
    *,
    first_step: bool,
) -> bool:
    """Take the step of `minseek.lowbit.optim.sgd` if the kernel supports it; returns True if it was taken.

    The tensors are flat. The kernel is for bfloat16 tensors in main memory that are rounded to bf16, to nearest even or
    with 16 random bits, without rounding of gradients and updates.
    """
    if p.dtype != torch.bfloat16 or p.device.type != "cpu" or gradient.dtype != p.dtype:
        return False
    if buffer is not None and (buffer.dtype != p.dtype or buffer.device != p.device):
        return False
    weights, momenta = precision.grid("weights", p.dtype), precision.grid("momenta", p.dtype)
    rounds_stored_only = not precision.gradients and not precision.update
    if not rounds_stored_only or not _is_supported(weights) or not (buffer is None or _is_supported(momenta)):
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
        lr=options["lr"],
        momentum=options["momentum"],
        one_minus_dampening=1 - options["dampening"],
        weight_decay=options["weight_decay"],
        first_step=first_step,
        nesterov=options["nesterov"],
        maximize=options["maximize"],
        weights_mode=weights.mode,
        momenta_mode=momenta.mode,
        threads=torch.get_num_threads(),
    )
    kernels.sgd_bfloat16(ctypes.byref(step))
    return True


def _is_supported(grid: Grid | None) -> bool:
    """True for a rounding to bf16 that the kernel supports."""
    if grid is None or ROUNDINGS[grid.mode] not in _MODES:
        return False
    stochastic = ROUNDINGS[grid.mode] == "stochastic"
    is_bf16 = (grid.mantissa, grid.least, grid.quantum) == (bf16.mantissa_bits, bf16.least_exponent, bf16.quantum)
    return is_bf16 and grid.over > grid.highest and (grid.random_bits == 16 or not stochastic)
