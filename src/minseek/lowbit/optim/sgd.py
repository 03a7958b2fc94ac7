"""Stochastic gradient descent in finite precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from minseek.errors import InputError
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import Rounding
from minseek.lowbit.optim.arithmetic import Part, PrecisionSpec, parts
from minseek.lowbit.optim.base import LowBitOptimizer, check_gradient, check_positive
from minseek.lowbit.optim.fused import sgd_bf16
from minseek.lowbit.rounding import RoundingSpec


class SGD(LowBitOptimizer):
    """`torch.optim.SGD` whose weights, momenta, gradients and updates are each rounded to a format.

    Weights of bfloat16 with stochastic rounding take no other memory than themselves and their gradients: 4 bytes a
    parameter. A step is computed in float32 (float64 for float64 weights), a stretch of each tensor at a time.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        As in `torch.optim.SGD`, whose steps are these, bit for bit, where nothing is rounded.
    weights, momenta : Format or RoundingSpec, optional
        What is kept is rounded to it; without it, to the tensors' own dtype, as `rounding` says.
    gradients, update : Format or RoundingSpec, optional
        Gradients as they come, and what is subtracted from the weights, lr times the direction.
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
    One step is ``w' = w - lr (g + e) + s`` with e the gradient's arithmetic error and s the rounding of the update
    (Metel, arXiv 2211.04655). With s unbiased, as stochastic rounding makes it, steps smaller than half the grid
    spacing still move the weights in the mean; rounded to nearest they are lost.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        weights: Format | RoundingSpec | None = None,
        momenta: Format | RoundingSpec | None = None,
        gradients: Format | RoundingSpec | None = None,
        update: Format | RoundingSpec | None = None,
        rounding: Rounding = "stochastic",
        generator: torch.Generator | None = None,
    ) -> None:
        check_positive(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise InputError("nesterov needs a momentum above 0 and a dampening of 0")
        arithmetic = PrecisionSpec.of(rounding, weights=weights, momenta=momenta, gradients=gradients, update=update)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize}, arithmetic, generator)

    def descend(self) -> None:
        """Move the weights along the gradients that are there."""
        found = list(self.tensors())
        seed = self.seed(p for _, _, p in found)
        for number, group, p in found:
            gradient = check_gradient(p)
            buffer, fresh = self._buffer(group, p)
            if self.arithmetic.exact(p.dtype):
                _torch_step(group, p, gradient, buffer, fresh)
            elif not sgd_bf16(self.arithmetic, seed, number, group, p, gradient, buffer, fresh):
                tensors = (p, gradient) if buffer is None else (p, gradient, buffer)
                for part, views in parts(self.arithmetic, seed, number, *tensors):
                    _part_step(part, group, fresh, *views)
            torch.autograd.graph.increment_version(p)

    def _buffer(self, group: dict[str, Any], p: Tensor) -> tuple[Tensor | None, bool]:
        """The momentum of a tensor, and whether it is still empty."""
        if group["momentum"] == 0:
            return None, False
        state = self.state[p]
        fresh = state.get("momentum_buffer") is None
        if fresh:
            state["momentum_buffer"] = torch.empty_like(p, memory_format=torch.contiguous_format)
        return state["momentum_buffer"], fresh


def _torch_step(group: dict[str, Any], p: Tensor, gradient: Tensor, buffer: Tensor | None, fresh: bool) -> None:
    buffers = [None if fresh else buffer]
    options = {name: group[name] for name in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")}
    sgd([p], [gradient], buffers, foreach=False, **options)
    if fresh:
        assert buffer is not None
        assert buffers[0] is not None
        buffer.copy_(buffers[0])


def _part_step(
    part: Part, group: dict[str, Any], fresh: bool, w: Tensor, gradient: Tensor, buffer: Tensor | None = None
) -> None:
    """A step in the operations, and so the roundings, of `torch.optim.SGD`, between those asked for."""
    wide = torch.float64 if w.dtype == torch.float64 else torch.float32
    g = part.rounded(gradient.to(wide, copy=True), "gradients")
    if group["maximize"]:
        g.neg_()
    weights = w.to(wide, copy=True)
    if group["weight_decay"]:
        g.add_(weights, alpha=group["weight_decay"])
    if buffer is not None:
        mean = (
            g.clone()
            if fresh
            else buffer.to(wide, copy=True).mul_(group["momentum"]).add_(g, alpha=1 - group["dampening"])
        )
        mean = part.rounded(mean, "momenta")
        buffer.copy_(mean)
        g = g.add_(mean, alpha=group["momentum"]) if group["nesterov"] else mean
    if part.arithmetic.update is None:
        weights.add_(g, alpha=-group["lr"])
    else:
        weights.sub_(part.rounded(g.mul(group["lr"]), "update"))
    w.copy_(part.rounded(weights, "weights"))  # exact: the dtype has all values of the format
