"""Stochastic gradient descent in finite precision."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.optim.sgd import sgd

from minseek.errors import InputError
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import Rounding
from minseek.lowbit.optim.base import LowBitOptimizer
from minseek.lowbit.optim.checks import TorchFlags, check_flags, check_gradient, check_positive, check_shape
from minseek.lowbit.optim.fused import sgd_bf16
from minseek.lowbit.optim.precision import Chunk, PrecisionSpec, chunks, compute_dtype, flattened, step_options
from minseek.lowbit.rounding import RoundingSpec


class SGD(LowBitOptimizer):
    """`torch.optim.SGD` whose weights, momenta, gradients and updates are each rounded to a format.

    Weights of bfloat16 with stochastic rounding take no memory besides themselves and their gradients: 4 bytes a
    parameter. A step is computed in float32 (float64 for float64 weights), a chunk of each tensor at a time.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        Parameters of `torch.optim.SGD`; where nothing is rounded, steps equal its steps bit for bit.
    weights, momenta : Format or RoundingSpec, optional
        Formats in which they are stored; by default the tensors' own dtype, rounded by `rounding`.
    gradients, update : Format or RoundingSpec, optional
        Formats of the gradients before the step, and of the update lr times direction; by default not rounded.
    rounding : str
        Mode of formats given without one, and of the tensors' own dtype.
    generator : torch.Generator, optional
        Source of stochastic rounding; by default one whose seed PyTorch's global one draws, or 0 where processes of
        distributed training must round alike.
    foreach, fused, capturable, differentiable, amsgrad : bool, optional
        Flags of PyTorch's optimizers: the first two change nothing, and the others must be False.

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

    state_names = ("momentum_buffer",)

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
        **flags: Unpack[TorchFlags],
    ) -> None:
        check_flags(flags)
        check_positive(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise InputError("nesterov needs a momentum above 0 and a dampening of 0")
        precision = PrecisionSpec.of(rounding, weights=weights, momenta=momenta, gradients=gradients, update=update)
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize}, precision, generator)

    def update(self) -> None:
        """Update the weights that have a gradient."""
        found = list(self.tensors())
        seed = self.seed(p for _, _, p in found)
        for number, group, p in found:
            gradient = check_gradient(p)
            buffer, first_step = self._buffer(group, p)
            if self.precision.exact(p.dtype):
                _torch_step(group, p, gradient, buffer, first_step)
            else:
                momenta = () if buffer is None else (buffer,)
                with flattened(p, *momenta) as flat:
                    flat.insert(1, gradient.contiguous().view(-1))
                    self._rounded_step(seed, number, step_options(group), flat, first_step=first_step)
            torch.autograd.graph.increment_version(p)

    def _rounded_step(
        self, seed: int, number: int, options: dict[str, Any], flat: list[Tensor], *, first_step: bool
    ) -> None:
        if not sgd_bf16(self.precision, seed, number, options, *flat, first_step=first_step):
            for chunk, views in chunks(self.precision, seed, number, *flat):
                _chunk_step(chunk, options, first_step, *views)

    def _buffer(self, group: dict[str, Any], p: Tensor) -> tuple[Tensor | None, bool]:
        """Momentum buffer of a tensor, and True if it is still empty."""
        if group["momentum"] == 0:
            return None, False
        state = self.state[p]
        first_step = state.get("momentum_buffer") is None
        if first_step:
            state["momentum_buffer"] = torch.empty_like(p)
        check_shape("the momentum", state["momentum_buffer"], p)
        return state["momentum_buffer"], first_step


def _torch_step(group: dict[str, Any], p: Tensor, gradient: Tensor, buffer: Tensor | None, first_step: bool) -> None:
    buffers = [None if first_step else buffer]
    options = {name: group[name] for name in ("weight_decay", "momentum", "lr", "dampening", "nesterov", "maximize")}
    sgd([p], [gradient], buffers, foreach=False, **options)
    if first_step:
        assert buffer is not None
        assert buffers[0] is not None
        buffer.copy_(buffers[0])


def _chunk_step(
    chunk: Chunk, group: dict[str, Any], first_step: bool, w: Tensor, gradient: Tensor, buffer: Tensor | None = None
) -> None:
    """A step in the operations of `torch.optim.SGD`, and so with its roundings, besides the requested ones."""
    dtype = compute_dtype(w.dtype)
    g = chunk.rounded(gradient.to(dtype, copy=True), "gradients")
    if group["maximize"]:
        g.neg_()
    weights = w.to(dtype, copy=True)
    if group["weight_decay"]:
        g.add_(weights, alpha=group["weight_decay"])
    if buffer is not None:
        mean = g.clone() if first_step else buffer.to(dtype, copy=True).mul_(group["momentum"])
        if not first_step:
            mean.add_(g, alpha=1 - group["dampening"])
        mean = chunk.rounded(mean, "momenta")
        buffer.copy_(mean)
        g = g.add_(mean, alpha=group["momentum"]) if group["nesterov"] else mean
    if chunk.precision.update is None:
        weights.add_(g, alpha=-group["lr"])
    else:
        weights.sub_(chunk.rounded(g.mul(group["lr"]), "update"))
    w.copy_(chunk.rounded(weights, "weights"))  # exact: the dtype has all values of the format
