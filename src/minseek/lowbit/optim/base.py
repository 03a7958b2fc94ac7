"""What the optimizers share: tensors in their order, seeds, and a state that a run resumes from exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError, check_type
from minseek.lowbit.optim.arithmetic import PrecisionSpec
from minseek.lowbit.philox import draw_seed

_OWN = "lowbit"  # key of our part in a state_dict


class LowBitOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` with an `PrecisionSpec` and a generator."""

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], arithmetic: PrecisionSpec, generator: torch.Generator | None
    ) -> None:
        self.arithmetic, self.generator = arithmetic, generator
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`.

        Raises
        ------
        InputError
            If the formats do not fit the tensors' dtype, or the tensors are not contiguous.
        """
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:
            self.arithmetic.check(p.dtype)
            if not p.is_contiguous():
                raise InputError(
                    f"a parameter of shape {tuple(p.shape)} is not contiguous: replace it by a copy that is"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; what `closure` returns, if one is given that computes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.descend()
        return loss

    def descend(self) -> None:
        """Move the weights along the gradients that are there."""
        raise NotImplementedError

    def tensors(self) -> Iterator[tuple[int, dict[str, Any], Tensor]]:
        """Parameters that have a gradient, with their number and group; the number stays theirs."""
        number = 0
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    yield number, group, p
                number += 1

    def seed(self, kept: Iterable[Tensor]) -> int:
        """The seed of a step's rounding; 0, and nothing drawn, where no number is rounded by chance."""
        return draw_seed(self.generator) if any(self.arithmetic.by_chance(p.dtype) for p in kept) else 0

    def own_state(self) -> dict[str, Any]:
        """What is kept beside PyTorch's state, unlike which it is not cast to the parameters' dtype when it is
        loaded."""
        return {}

    def load_own_state(self, own: dict[str, Any]) -> None:
        """The reverse of `own_state`."""

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim.Optimizer`, with the generator's state: a run that resumes from it is the same run."""
        generator = None if self.generator is None else self.generator.get_state()
        return {**super().state_dict(), _OWN: {"generator": generator, **self.own_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The reverse of `state_dict`.

        Raises
        ------
        InputError
            If the state belongs to another kind of optimizer, or to one with a generator and this has none.
        """
        if _OWN not in state_dict:
            raise InputError("this state was not saved by an optimizer of minseek.lowbit")
        own = dict(state_dict[_OWN])
        state = own.pop("generator")
        if (state is None) != (self.generator is None):
            raise InputError("the state was saved " + ("with" if state is not None else "without") + " a generator")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != _OWN})
        if state is not None and self.generator is not None:
            self.generator.set_state(state)
        self.load_own_state(own)


def check_gradient(p: Tensor) -> Tensor:
    """A parameter's gradient, contiguous.

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
    """Refuse what is negative, or no number.

    Raises
    ------
    InputError, TypeError
        Naming the first.
    """
    for name, number in numbers.items():
        check_type(f"{name} must be a number", number, (Real, Tensor))  # PyTorch takes a tensor as learning rate
        if not number >= 0:
            raise InputError(f"{name} must be 0 or more, not {number}")
