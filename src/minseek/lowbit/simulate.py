"""Simulated arithmetic: a module that computes as though its numbers had narrow formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from minseek.errors import InputError
from minseek.lowbit.accumulate import accumulating, apply
from minseek.lowbit.formats import Format
from minseek.lowbit.grid import check_fits, grid_for
from minseek.lowbit.rounding import Rounding, RoundingSpec
from minseek.lowbit.straight_through import map_tensors, straight_through

_RUNNING: list[_Simulation] = []


@contextmanager
def simulate(
    module: nn.Module,
    *,
    weights: Format | RoundingSpec | None = None,
    activations: Format | RoundingSpec | None = None,
    gradients: Format | RoundingSpec | None = None,
    accumulations: Format | RoundingSpec | None = None,
    rounding: Rounding = "nearest-even",
    generator: torch.Generator | None = None,
    accumulate_every: int = 1,
) -> Iterator[None]:
    """In this block a module computes, forward and backward, as though its numbers had these formats.

    The tensors keep their dtype: what is simulated is which values they take. Both passes belong into the block.

    Parameters
    ----------
    module : nn.Module
        Left as it was when the block ends, also by an exception.
    weights : Format or RoundingSpec, optional
        The forward pass sees each floating-point parameter rounded. The parameter itself, which an optimizer may
        change in the block, is not; its gradient is that of the rounded one (straight-through).
    activations : Format or RoundingSpec, optional
        What a module without children returns, and what `module` is given, is rounded; the gradient passes unchanged.
        That goes for floating-point tensors, also in tuples, lists and dicts. What is computed between modules, such
        as a residual sum or ``functional.relu``, is rounded when it next goes through such a place.
    gradients : Format or RoundingSpec, optional
        The gradients that come back through the places of `activations` are rounded, and each parameter's ``.grad``
        whenever a gradient has been added to it.
    accumulations : Format or RoundingSpec, optional
        All floating-point matrix products of this thread round their running sums, those of the backward pass too,
        and of whatever else the block computes; see `minseek.lowbit.accumulate.accumulating`.
    rounding : str
        Rounding of each `Format` that does not come with its own.
    generator : torch.Generator, optional
        Of all stochastic rounding: the same state gives the same run. Without it, PyTorch's own.
    accumulate_every : int
        Products that are added to a running sum, exactly or in float64, between two roundings.

    Raises
    ------
    InputError
        If an argument is unknown or has no effect, the module or a part of it is simulated already, or a parameter's
        dtype lacks values of its format; in the block, if an activation's dtype does, if products cannot be followed,
        or if a backward pass that gradients or accumulations should round comes after the block.

    Notes
    -----
    None everywhere changes nothing, bit for bit. Parameters are rounded anew by each outermost call of `module` or a
    part of it. Activation checkpointing calls parts again in the backward pass: stochastic rounding then draws anew.
    """
    if accumulations is None and accumulate_every != 1:
        raise InputError(f"accumulate_every={accumulate_every} has no effect without accumulations: leave it out")
    sums = _as_rounded(accumulations, rounding)
    simulation = _Simulation(
        module,
        _as_rounded(weights, rounding),
        _as_rounded(activations, rounding),
        _as_rounded(gradients, rounding),
        whole=gradients is not None or accumulations is not None,
        generator=generator,
    )
    _check(simulation, accumulates=sums is not None)
    _RUNNING.append(simulation)
    with ExitStack() as stack:
        stack.callback(simulation.end)
        if sums is not None:
            stack.enter_context(accumulating(sums, every=accumulate_every, generator=generator))
            simulation.accumulates = True
        simulation.begin(stack)
        yield


@dataclass(eq=False)
class _Simulation:
    """What the hooks on a module do."""

    module: nn.Module
    weights: RoundingSpec | None
    activations: RoundingSpec | None
    gradients: RoundingSpec | None
    whole: bool
    generator: torch.Generator | None
    accumulates: bool = False
    ended: bool = False
    _calls: list[nn.Module] = field(default_factory=list)  # of the module and its parts, that have not returned
    _hidden: list[tuple[nn.Module, str, Parameter]] = field(default_factory=list)  # while they are seen rounded

    def begin(self, stack: ExitStack) -> None:
        """Set the hooks; `stack` takes them away."""
        places = self.activations is not None or self.whole
        if places:
            stack.callback(self.module.register_forward_pre_hook(self._given, with_kwargs=True).remove)
        for part in self.module.modules():
            if self.weights is not None:
                stack.callback(part.register_forward_pre_hook(self._called, prepend=True).remove)
                stack.callback(part.register_forward_hook(self._returned, always_call=True).remove)
            if places and not any(True for _ in part.children()):
                stack.callback(part.register_forward_hook(self._gives).remove)
        for parameter in _floating(self.module):
            if self.gradients is not None and parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)

    def end(self) -> None:
        """Give the module its parameters back, and what is left of a graph its notice."""
        self._restore()
        self.ended = True
        _RUNNING.remove(self)

    def _called(self, module: nn.Module, args: Any) -> None:
        if not self._calls:
            seen = {p: self._see(p, self.weights, None) for p in _floating(self.module)}
            for part in self.module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is not None and parameter in seen:
                        self._hidden.append((part, name, parameter))
                        part._parameters[name] = cast(Parameter, seen[parameter])
        self._calls.append(module)

    def _returned(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._calls and self._calls[-1] is module:  # not where a call has failed before it came to us
            self._calls.pop()
        if not self._calls:
            self._restore()

    def _restore(self) -> None:
        while self._hidden:
            part, name, parameter = self._hidden.pop()
            part._parameters[name] = parameter

    def _given(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return map_tensors(self._pass, args), map_tensors(self._pass, kwargs)

    def _gives(self, module: nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(self._pass, output)

    def _pass(self, x: Tensor) -> Tensor:
        return self._see(x, self.activations, self.gradients) if x.is_floating_point() else x

    def _see(self, x: Tensor, forward: RoundingSpec | None, backward: RoundingSpec | None) -> Tensor:
        return straight_through(x, forward, backward, self.generator, self._check_open)

    def _check_open(self) -> None:
        if self.ended and self.whole:
            raise InputError("this backward pass comes after the simulation that it belongs to: call it in the block")

    def _accumulated(self, parameter: Tensor) -> None:
        assert self.gradients is not None
        assert parameter.grad is not None
        if parameter.grad.layout != torch.strided:
            raise InputError("a sparse gradient cannot be rounded: set sparse=False in the embedding")
        apply(self.gradients, parameter.grad, self.generator, out=parameter.grad)


def _as_rounded(given: Format | RoundingSpec | None, rounding: Rounding) -> RoundingSpec | None:
    """With its rounding mode, which is checked."""
    if given is None:
        return None
    if isinstance(given, Format):
        given = RoundingSpec(given, rounding)
    if not isinstance(given, RoundingSpec):
        raise InputError(f"{given!r} is neither a Format nor a RoundingSpec: give one, such as minseek.lowbit.bf16")
    grid_for(given.fmt, given.rounding, given.random_bits, torch.float64)
    return given


def _check(simulation: _Simulation, *, accumulates: bool) -> None:
    """Refuse what cannot be simulated, before anything is touched."""
    if accumulates and any(other.accumulates for other in _RUNNING):
        raise InputError("another simulation rounds the accumulations already: leave accumulations out of one of them")
    taken = {part for other in _RUNNING for part in other.module.modules()}
    for part in simulation.module.modules():
        kind = type(part).__name__
        if part in taken:
            raise InputError(f"this {kind} is simulated already: end that simulation first")
        if isinstance(part, nn.RNNBase) and (simulation.weights is not None or accumulates):
            raise InputError(f"{kind} runs as one operation, which hides its arithmetic: use {kind}Cell in a loop")
    for rounded in (simulation.weights, simulation.gradients):
        for parameter in _floating(simulation.module):
            if rounded is not None:
                check_fits(rounded.fmt, parameter.dtype)


def _floating(module: nn.Module) -> list[Parameter]:
    """Its floating-point parameters, each once."""
    return [parameter for parameter in module.parameters() if parameter.is_floating_point()]
