"""Simulated arithmetic: a module computes as if its numbers had narrow formats."""

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
    """Let a module compute in this block, forward and backward, as if its numbers had these formats.

    The tensors keep their dtype and take only values of the formats. Both passes must be inside the block.

    Parameters
    ----------
    module : nn.Module
        Restored when the block ends, also by an exception.
    weights : Format or RoundingSpec, optional
        The forward pass sees each floating-point parameter rounded. The parameter itself, which an optimizer may
        change in the block, is not; its gradient is that of the rounded one (straight-through).
    activations : Format or RoundingSpec, optional
        The outputs of modules without children and the inputs of `module` are rounded; the gradient passes unchanged.
        This holds for floating-point tensors, also in tuples, lists and dicts. Results computed between modules, such
        as a residual sum or ``functional.relu``, are rounded at the next such place.
    gradients : Format or RoundingSpec, optional
        The gradients that come back through the places of `activations` are rounded, and each parameter's ``.grad``
        whenever a gradient has been added to it.
    accumulations : Format or RoundingSpec, optional
        All floating-point matrix products of this thread in the block, also in the backward pass, round their running
        sums; see `minseek.lowbit.accumulate.accumulating`.
    rounding : str
        Rounding mode of each plain `Format`.
    generator : torch.Generator, optional
        Source of all stochastic rounding, by default PyTorch's global one; equal states give equal runs.
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
    None everywhere changes nothing, bit for bit. Each outermost call of `module` or of a part of it rounds the
    parameters again. Activation checkpointing calls parts again in the backward pass: stochastic rounding then draws
    new numbers.
    """
    if accumulations is None and accumulate_every != 1:
        raise InputError(f"accumulate_every={accumulate_every} has no effect without accumulations: leave it out")
    sums = _to_spec(accumulations, rounding)
    simulation = _Simulation(
        module,
        _to_spec(weights, rounding),
        _to_spec(activations, rounding),
        _to_spec(gradients, rounding),
        needs_backward=gradients is not None or accumulations is not None,
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
    """Hooks on a module, and the state of its simulation."""

    module: nn.Module
    weights: RoundingSpec | None
    activations: RoundingSpec | None
    gradients: RoundingSpec | None
    needs_backward: bool
    generator: torch.Generator | None
    accumulates: bool = False
    ended: bool = False
    _calls: list[nn.Module] = field(default_factory=list)  # that have not returned yet
    _hidden: list[tuple[nn.Module, str, Parameter]] = field(default_factory=list)  # replaced by rounded ones

    def begin(self, stack: ExitStack) -> None:
        """Register the hooks; `stack` removes them."""
        places = self.activations is not None or self.needs_backward
        if places:
            stack.callback(self.module.register_forward_pre_hook(self._round_inputs, with_kwargs=True).remove)
        for part in self.module.modules():
            if self.weights is not None:
                stack.callback(part.register_forward_pre_hook(self._enter, prepend=True).remove)
                stack.callback(part.register_forward_hook(self._leave, always_call=True).remove)
            if places and not any(True for _ in part.children()):
                stack.callback(part.register_forward_hook(self._round_output).remove)
        for parameter in _floating(self.module):
            if self.gradients is not None and parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._round_gradient)  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)

    def end(self) -> None:
        """Restore the parameters; later backward passes through the graph are refused."""
        self._restore()
        self.ended = True
        _RUNNING.remove(self)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if not self._calls:
            rounded = {p: self._round(p, self.weights, None) for p in _floating(self.module)}
            for part in self.module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is not None and parameter in rounded:
                        self._hidden.append((part, name, parameter))
                        part._parameters[name] = cast(Parameter, rounded[parameter])
        self._calls.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._calls and self._calls[-1] is module:  # unless the call failed before this hook
            self._calls.pop()
        if not self._calls:
            self._restore()

    def _restore(self) -> None:
        while self._hidden:
            part, name, parameter = self._hidden.pop()
            part._parameters[name] = parameter

    def _round_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return map_tensors(self._round_activation, args), map_tensors(self._round_activation, kwargs)

    def _round_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        return map_tensors(self._round_activation, output)

    def _round_activation(self, x: Tensor) -> Tensor:
        return self._round(x, self.activations, self.gradients) if x.is_floating_point() else x

    def _round(self, x: Tensor, forward: RoundingSpec | None, backward: RoundingSpec | None) -> Tensor:
        return straight_through(x, forward, backward, self.generator, self._check_open)

    def _check_open(self) -> None:
        if self.ended and self.needs_backward:
            raise InputError("this backward pass comes after the simulation that it belongs to: call it in the block")

    def _round_gradient(self, parameter: Tensor) -> None:
        assert self.gradients is not None
        assert parameter.grad is not None
        if parameter.grad.layout != torch.strided:
            raise InputError("a sparse gradient cannot be rounded: set sparse=False in the embedding")
        apply(self.gradients, parameter.grad, self.generator, out=parameter.grad)


def _to_spec(given: Format | RoundingSpec | None, rounding: Rounding) -> RoundingSpec | None:
    """Add the rounding mode to a plain format, and check it."""
    if given is None:
        return None
    if isinstance(given, Format):
        given = RoundingSpec(given, rounding)
    if not isinstance(given, RoundingSpec):
        raise InputError(f"{given!r} is neither a Format nor a RoundingSpec: give one, such as minseek.lowbit.bf16")
    grid_for(given.fmt, given.rounding, given.random_bits, torch.float64)
    return given


def _check(simulation: _Simulation, *, accumulates: bool) -> None:
    """Refuse modules that cannot be simulated, before any change."""
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
    """Floating-point parameters of a module, each once."""
    return [parameter for parameter in module.parameters() if parameter.is_floating_point()]
