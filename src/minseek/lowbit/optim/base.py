"""Base of the optimizers: order of tensors, seeds, and a state from which a run resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError, check_type
from minseek.lowbit.optim.precision import PrecisionSpec
from minseek.lowbit.philox import draw_seed

_EXTRA = "lowbit"  # key of the extra state in a state_dict


class LowBitOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` with a `PrecisionSpec` and a generator."""

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], precision: PrecisionSpec, generator: torch.Generator | None
    ) -> None:
        self.precision, self.generator = precision, generator
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as `torch.optim.Optimizer` does.

        Raises
        ------
        InputError
            If the formats do not fit the tensors' dtype, or the tensors are not contiguous.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            self.precision.check(p.dtype)
            if not p.is_contiguous():
                raise InputError(
                    f"a parameter of shape {tuple(p.shape)} is not contiguous: replace it by a copy that is"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the value of `closure`, which computes the gradients if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    def update(self) -> None:
        """Update the weights that have a gradient."""
        raise NotImplementedError

    def tensors(self) -> Iterator[tuple[int, dict[str, Any], Tensor]]:
        """Parameters that have a gradient, each with its index among all parameters and its group."""
        number = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield number, group, p
                number += 1

    def seed(self, kept: Iterable[Tensor]) -> int:
        """Draw the seed of a step's rounding; 0, without a draw, if no rounding is stochastic."""
        return draw_seed(self.generator) if any(self.precision.is_stochastic(p.dtype) for p in kept) else 0

    def extra_state(self) -> dict[str, Any]:
        """Extra optimizer state, saved and restored without the dtype cast that PyTorch applies."""
        return {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore the value of `extra_state`."""

    def state_dict(self) -> dict[str, Any]:
        """State of `torch.optim.Optimizer` and of the generator, from which a run resumes exactly."""
        generator = None if self.generator is None else self.generator.get_state()
        return {**super().state_dict(), _EXTRA: {"generator": generator, **self.extra_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the value of `state_dict`.

        Raises
        ------
        InputError
            If the state belongs to another kind of optimizer, or only one of the two has a generator.
        """
        if _EXTRA not in state_dict:
            raise InputError("this state was not saved by an optimizer of minseek.lowbit")
        extra = dict(state_dict[_EXTRA])
        state = extra.pop("generator")
        if (state is None) != (self.generator is None):
            raise InputError("the state was saved " + ("with" if state is not None else "without") + " a generator")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _EXTRA})
        if state is not None and self.generator is not None:
            self.generator.set_state(state)
        self.load_extra_state(extra)


def check_gradient(p: Tensor) -> Tensor:
    """Return a parameter's gradient as a contiguous tensor.

    Raises
    ------
    InputError
        If it is sparse.
    """
    assert p.grad is not None
    if p.grad.is_sparse:
        raise InputError("sparse gradients are not supported: make the embedding's dense (sparse=False)")
    return p.grad.contiguous()


def check_positive(**numbers: float) -> None:
    """Refuse negative numbers and values that are not numbers.

    Raises
    ------
    InputError, TypeError
        If there is one; the first is named.
    """
    for name, number in numbers.items():
        check_type(f"{name} must be a number", number, (Real, Tensor))  # PyTorch takes a tensor as learning rate
        if not number >= 0:
            raise InputError(f"{name} must be 0 or more, not {number}")
