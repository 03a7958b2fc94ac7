"""Perturbed-iterate SGD: gradients taken at random points near the iterate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Literal, Unpack, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError, check_type
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import Rounding
from minseek.lowbit.optim.checks import TorchFlags, check_gradient, check_positive
from minseek.lowbit.optim.iterates import Iterates, Kept
from minseek.lowbit.optim.perturb import Perturbation, Shape
from minseek.lowbit.optim.sgd import SGD
from minseek.lowbit.rounding import RoundingSpec

StepSize = Literal["constant", "decaying", "normalized", "adagrad-norm"]


class PISGD(SGD):
    """Perturbed-iterate SGD (Metel & Takeda, arXiv 2003.07606; with numerical error, Metel, arXiv 2211.04655).

    A step draws `samples` perturbations u, each with a gradient at w + u, and moves w along the mean of these: an
    unbiased estimate of the gradient of the smoothed loss E f(w + u). The perturbation is not kept in the iterate.

    Parameters
    ----------
    params, momentum, dampening, weight_decay, nesterov, maximize, weights, momenta, gradients, update, rounding,
    generator, foreach, fused, capturable, differentiable, amsgrad
        Parameters of `SGD`; the generator also draws the perturbations.
    lr : float
        The step size, or the factor in it.
    radius : float
        Radius of the perturbation of all tensors of a parameter group together.
    shape : {"ball", "box"}
        Uniform in the l2 ball of that radius, or in the box [-radius, radius] of every element.
    samples : int
        Gradients in a step.
    step_size : {"constant", "decaying", "normalized", "adagrad-norm"}
        In this order: lr; lr / sqrt(k) in step k = 1, 2, …; lr / ||g||; lr / sqrt(sum of ||g||^2 over all steps so
        far). The norms are those of the gradients of a parameter group.
    keep : sequence of {"average", "random"}
        Iterates to keep besides the last: the mean of those at the start of steps (4 bytes a parameter), or one drawn
        uniformly from them (a copy of the weights).

    Raises
    ------
    InputError
        If a number or a name is out of range, or the tensors' dtype lacks values of a format.

    Notes
    -----
    A copy of the weights is held during a step, and with several samples a float32 sum of gradients. The bounds of the
    papers hold for plain steps: momentum, weight decay and Nesterov are ours.
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
        radius: float = 1e-3,
        shape: Shape = "ball",
        samples: int = 1,
        step_size: StepSize = "constant",
        keep: Sequence[Kept] = (),
        maximize: bool = False,
        weights: Format | RoundingSpec | None = None,
        momenta: Format | RoundingSpec | None = None,
        gradients: Format | RoundingSpec | None = None,
        update: Format | RoundingSpec | None = None,
        rounding: Rounding = "stochastic",
        generator: torch.Generator | None = None,
        **flags: Unpack[TorchFlags],
    ) -> None:
        check_positive(radius=radius)
        check_type("samples must be an integer", samples, Integral)
        if samples < 1:
            raise InputError(f"samples must be 1 or more, not {samples}")
        for name, value, known in (("shape", shape, get_args(Shape)), ("step_size", step_size, get_args(StepSize))):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}: choose {', '.join(known)}")
        self.samples, self.shape, self.step_size = samples, shape, step_size
        self.steps = 0
        self._sums: dict[int, float] = {}  # of squared gradient norms so far, for each group
        self._kept = Iterates(keep)
        super().__init__(
            params, lr, momentum, dampening, weight_decay, nesterov, maximize=maximize, weights=weights,
            momenta=momenta, gradients=gradients, update=update, rounding=rounding, generator=generator, **flags,
        )  # fmt: skip
        self.defaults["radius"] = radius  # of groups added later, too
        for group in self.param_groups:
            group.setdefault("radius", radius)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable
            Zeroes the gradients, computes the loss and its gradients, of new data if it draws any, and returns the
            loss. It is called `samples` times, each time at another point.

        Returns
        -------
        float, or the type that the closure returns
            Loss at the perturbed point; the mean with several samples.
        """
        if closure is None:
            raise InputError("PISGD takes gradients at perturbed weights: give step() a closure that computes them")
        self.steps += 1
        parameters = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        self._kept.record(self._parameters(), self.steps, self.random_source())
        before = [p.detach().clone() for p in parameters]
        sums: dict[Tensor, Tensor] = {}
        losses: list[Any] = []
        try:
            for _ in range(self.samples):
                self._perturb(parameters, before, restore=bool(losses))
                with torch.enable_grad():
                    losses.append(closure())
                if self.samples > 1:
                    _collect(parameters, sums)
        finally:
            for p, own in zip(parameters, before, strict=True):
                p.copy_(own)
            del before
        for p, total in sums.items():
            p.grad = total.div_(self.samples).to(p.dtype)
        sums.clear()
        with self._step_sizes():
            self.update()
        return losses[0] if self.samples == 1 else sum(float(loss) for loss in losses) / self.samples

    def _perturb(self, parameters: list[Tensor], before: list[Tensor], *, restore: bool) -> None:
        if restore:
            for p, own in zip(parameters, before, strict=True):
                p.copy_(own)
        for group in self.param_groups:
            tensors = [p for p in group["params"] if p.requires_grad]
            if tensors and group["radius"]:
                Perturbation(tensors, group["radius"], self.shape, self.random_source()).apply()

    @contextmanager
    def _step_sizes(self) -> Iterator[None]:
        """Set each group's lr to the step size of this step inside the context."""
        given = [group["lr"] for group in self.param_groups]
        for number, group in enumerate(self.param_groups):
            if self.step_size == "decaying":
                group["lr"] = group["lr"] / math.sqrt(self.steps)  # a tensor stays unchanged
            elif self.step_size != "constant":
                square = sum(
                    float(check_gradient(p).double().square().sum()) for p in group["params"] if p.grad is not None
                )
                if self.step_size == "adagrad-norm":
                    square = self._sums[number] = self._sums.get(number, 0.0) + square
                group["lr"] = group["lr"] / math.sqrt(square) if square else 0.0
        try:
            yield
        finally:
            for group, lr in zip(self.param_groups, given, strict=True):
                group["lr"] = lr

    def perturbation_in_ulps(self) -> list[float]:
        """Compute log2(a / ulp) of each parameter.

        a is the root mean square of the perturbation of an element, ulp the median grid spacing of the format in which
        the weights are stored. Below -1 the perturbation is smaller than half a spacing, and would be lost if
        perturbed points were rounded to nearest.
        """
        found = []
        for group in self.param_groups:
            dims = sum(p.numel() for p in group["params"])
            typical = group["radius"] / (math.sqrt(dims + 2) if self.shape == "ball" else math.sqrt(3))
            for p in group["params"]:
                spacing = float(self.precision.format_of("weights", p.dtype).ulp(p).median())
                found.append(math.log2(typical / spacing) if typical else -math.inf)
        return found

    @contextmanager
    def iterate(self, which: Kept) -> Iterator[None]:
        """Give the parameters the average iterate, or one drawn uniformly, inside the context.

        Raises
        ------
        InputError
            If it is not in `keep`, or no step was taken yet.
        """
        with self._kept.swapped_in(which, self._parameters()):
            yield

    def is_random(self) -> bool:
        """True: perturbations and the kept iterate are drawn, whatever rounding draws."""
        return True

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def extra_state(self) -> dict[str, Any]:
        """Number of steps, sums of squared norms, and kept iterates."""
        return {"steps": self.steps, "sums": dict(self._sums), "kept": self._kept.state()}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore the value of `extra_state`."""
        self.steps, self._sums = extra["steps"], dict(extra["sums"])
        self._kept.load(extra["kept"])


def _collect(parameters: list[Tensor], sums: dict[Tensor, Tensor]) -> None:
    for p in parameters:
        if p.grad is not None:
            gradient = check_gradient(p)
            if p in sums:
                sums[p].add_(gradient)
            else:
                sums[p] = gradient.to(torch.promote_types(p.dtype, torch.float32), copy=True)
