"""AdamW in finite precision."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import Rounding
from minseek.lowbit.optim.base import LowBitOptimizer
from minseek.lowbit.optim.checks import TorchFlags, check_flags, check_gradient, check_positive, check_shape
from minseek.lowbit.optim.precision import Chunk, PrecisionSpec, chunks, compute_dtype, flattened, step_options
from minseek.lowbit.rounding import RoundingSpec


class AdamW(LowBitOptimizer):
    """`torch.optim.AdamW` whose weights and moments are each rounded to a format.

    In bfloat16 with stochastic rounding it takes 8 bytes a parameter with the gradients, where mixed precision takes
    16.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, maximize
        Parameters of `torch.optim.AdamW`; where nothing is rounded, steps equal its steps bit for bit.
    weights, moments : Format or RoundingSpec, optional
        Formats in which they are stored; by default the tensors' own dtype, rounded by `rounding`.
    rounding : str
        Mode of formats given without one, and of the tensors' own dtype.
    generator : torch.Generator, optional
        Source of stochastic rounding; by default one whose seed PyTorch's global one draws, or 0 where processes of
        distributed training must round alike.
    foreach, fused, capturable, differentiable, amsgrad : bool, optional
        Flags of `torch.optim.AdamW`: the first two change nothing, and the others must be False.

    Raises
    ------
    InputError
        If a number is out of range, or the tensors' dtype lacks values of a format.

    Notes
    -----
    Rounded to nearest, the second moment stops moving in bfloat16: its relative change in a step, 1 - 0.999, is less
    than half the grid spacing.
    """

    state_names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        maximize: bool = False,
        weights: Format | RoundingSpec | None = None,
        moments: Format | RoundingSpec | None = None,
        rounding: Rounding = "stochastic",
        generator: torch.Generator | None = None,
        **flags: Unpack[TorchFlags],
    ) -> None:
        check_flags(flags)
        check_positive(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas must be 0 or more and less than 1, not {betas}")
        precision = PrecisionSpec.of(rounding, weights=weights, momenta=moments)
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, options, precision, generator)

    def update(self) -> None:
        """Update the weights that have a gradient."""
        found = list(self.tensors())
        seed = self.seed(p for _, _, p in found)
        for number, group, p in found:
            gradient, state = check_gradient(p), self.state[p]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            moments = (state["exp_avg"], state["exp_avg_sq"])
            check_shape("the state", moments[0], p)
            if self.precision.exact(p.dtype):
                _torch_step(group, p, gradient, *moments, state["step"])
            else:
                state["step"] += 1
                count, options = int(state["step"]), step_options(group)
                with flattened(p, *moments) as (weights, *flat):
                    tensors = (weights, gradient.contiguous().view(-1), *flat)
                    for chunk, views in chunks(self.precision, seed, number, *tensors):
                        _chunk_step(chunk, options, count, *views)
            torch.autograd.graph.increment_version(p)


def _torch_step(
    group: dict[str, Any], p: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor
) -> None:
    beta1, beta2 = group["betas"]
    options = {name: group[name] for name in ("lr", "weight_decay", "eps", "maximize")}
    adamw(
        [p], [gradient], [mean], [square], [], [count], foreach=False, amsgrad=False, beta1=beta1, beta2=beta2,
        **options,
    )  # fmt: skip


def _chunk_step(
    chunk: Chunk, group: dict[str, Any], count: int, w: Tensor, gradient: Tensor, mean: Tensor, square: Tensor
) -> None:
    """A step in the operations of `torch.optim.AdamW`, with rounded weights and moments."""
    dtype = compute_dtype(w.dtype)
    beta1, beta2 = group["betas"]
    g = gradient.to(dtype)
    if group["maximize"]:
        g = -g
    first = chunk.rounded(mean.to(dtype, copy=True).lerp_(g, 1 - beta1), "momenta")
    second = square.to(dtype, copy=True).mul_(beta2).addcmul_(g, g, value=1 - beta2)
    second = chunk.rounded(second, "momenta", "squares")
    mean.copy_(first)
    square.copy_(second)
    weights = w.to(dtype, copy=True).mul_(1 - group["lr"] * group["weight_decay"])
    spread = second.sqrt_().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
    weights.addcdiv_(first, spread, value=-group["lr"] / (1 - beta1**count))
    w.copy_(chunk.rounded(weights, "weights"))
