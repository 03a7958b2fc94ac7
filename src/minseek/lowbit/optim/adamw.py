"""AdamW in finite precision: to compare with, and where SGD does not do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import Rounding
from minseek.lowbit.optim.arithmetic import Part, PrecisionSpec, parts
from minseek.lowbit.optim.base import LowBitOptimizer, check_gradient, check_positive
from minseek.lowbit.rounding import RoundingSpec


class AdamW(LowBitOptimizer):
    """`torch.optim.AdamW` whose weights and moments are each rounded to a format.

    In bfloat16 with stochastic rounding it takes 8 bytes a parameter with the gradients, where mixed precision takes
    16.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay
        As in `torch.optim.AdamW`, whose steps are these, bit for bit, where nothing is rounded.
    weights, moments : Format or RoundingSpec, optional
        What is kept is rounded to it; without it, to the tensors' own dtype, as `rounding` says.
    rounding : str
        Of every format that is given without a mode, and of the tensors' own dtype.
    generator : torch.Generator, optional
        Of stochastic rounding; without it, PyTorch's own.

    Raises
    ------
    InputError
        If a number is out of range, or the tensors' dtype lacks values of a format.

    Notes
    -----
    Rounded to nearest, the second moment stops moving in bfloat16: its share of a step, 1 - 0.999, is less than half
    the grid spacing.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        weights: Format | RoundingSpec | None = None,
        moments: Format | RoundingSpec | None = None,
        rounding: Rounding = "stochastic",
        generator: torch.Generator | None = None,
    ) -> None:
        check_positive(lr=lr, eps=eps, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"betas must be 0 or more and less than 1, not {betas}")
        arithmetic = PrecisionSpec.of(rounding, weights=weights, momenta=moments)
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, arithmetic, generator
        )

    def descend(self) -> None:
        """Move the weights along the gradients that are there."""
        found = list(self.tensors())
        seed = self.seed(p for _, _, p in found)
        for number, group, p in found:
            gradient, state = check_gradient(p), self.state[p]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            moments = (state["exp_avg"], state["exp_avg_sq"])
            if self.arithmetic.exact(p.dtype):
                _torch_step(group, p, gradient, *moments, state["step"])
            else:
                state["step"] += 1
                count = int(state["step"])
                for part, views in parts(self.arithmetic, seed, number, p, gradient, *moments):
                    _part_step(part, group, count, *views)
            torch.autograd.graph.increment_version(p)


def _torch_step(
    group: dict[str, Any], p: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor
) -> None:
    beta1, beta2 = group["betas"]
    options = {name: group[name] for name in ("lr", "weight_decay", "eps")}
    adamw(
        [p], [gradient], [mean], [square], [], [count], foreach=False, amsgrad=False, beta1=beta1, beta2=beta2,
        maximize=False, **options,
    )  # fmt: skip


def _part_step(
    part: Part, group: dict[str, Any], count: int, w: Tensor, gradient: Tensor, mean: Tensor, square: Tensor
) -> None:
    """A step in the operations of `torch.optim.AdamW`, with roundings of what is kept."""
    wide = torch.float64 if w.dtype == torch.float64 else torch.float32
    beta1, beta2 = group["betas"]
    g = gradient.to(wide)
    first = part.rounded(mean.to(wide, copy=True).lerp_(g, 1 - beta1), "momenta")
    second = part.rounded(square.to(wide, copy=True).mul_(beta2).addcmul_(g, g, value=1 - beta2), "momenta", "squares")
    mean.copy_(first)
    square.copy_(second)
    weights = w.to(wide, copy=True).mul_(1 - group["lr"] * group["weight_decay"])
    spread = second.sqrt_().div_((1 - beta2**count) ** 0.5).add_(group["eps"])
    weights.addcdiv_(first, spread, value=-group["lr"] / (1 - beta1**count))
    w.copy_(part.rounded(weights, "weights"))
