"""Base of the optimizers: order of tensors, seeds, and a state from which a run resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from minseek.errors import InputError
from minseek.lowbit.optim.checks import check_memory, check_state
from minseek.lowbit.optim.precision import PrecisionSpec
from minseek.lowbit.philox import draw_seed

_EXTRA = "lowbit"  # key of the extra state in a state_dict


class LowBitOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` with a `PrecisionSpec` and a generator."""

    state_names: tuple[str, ...] = ()
    """Tensors of a parameter's state, by the names of the optimizer of PyTorch."""

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], precision: PrecisionSpec, generator: torch.Generator | None
    ) -> None:
        self.precision, self.generator = precision, generator
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but hooks, which copies and pickles lack as those of PyTorch do."""
        return {name: value for name, value in self.__dict__.items() if not name.endswith("_hooks")}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as `torch.optim.Optimizer` does.

        Raises
        ------
        InputError
            If the formats do not fit the tensors' dtype, or elements of a tensor share memory.
        """
        super().add_param_group(param_group)
        try:
            for p in self.param_groups[-1]["params"]:
                self.precision.check(p.dtype)
                check_memory(p)
        except InputError:
            self.param_groups.pop()
            raise

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

    def random_source(self) -> torch.Generator:
        """Return the generator; without a given one, make it from a seed.

        PyTorch's global generator draws that seed. It differs between the processes of distributed training, whose
        copies of the weights would be rounded differently and drift apart: there the seed is 0.
        """
        if self.generator is None:
            is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
            self.generator = torch.Generator().manual_seed(0 if is_distributed else draw_seed(None) >> 1)
        return self.generator

    def seed(self, kept: Iterable[Tensor]) -> int:
        """Draw the seed of a step's rounding; 0, without a draw, if no rounding is stochastic."""
        return draw_seed(self.random_source()) if any(self.precision.is_stochastic(p.dtype) for p in kept) else 0

    def is_random(self) -> bool:
        """True if steps draw random numbers."""
        return any(self.precision.is_stochastic(p.dtype) for group in self.param_groups for p in group["params"])

    def extra_state(self) -> dict[str, Any]:
        """Extra optimizer state, saved and restored without the dtype cast that PyTorch applies."""
        return {}

    def load_extra_state(self, extra: dict[str, Any]) -> None:
        """Restore the value of `extra_state`."""

    def state_dict(self) -> dict[str, Any]:
        """State of `torch.optim.Optimizer` and of the generator, from which a run resumes exactly."""
        generator = self.generator
        if generator is None and self.is_random():
            generator = self.random_source()
        state = None if generator is None else generator.get_state()
        return {**super().state_dict(), _EXTRA: {"generator": state, **self.extra_state()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the value of `state_dict`, or that of the corresponding optimizer of `torch.optim`.

        The latter has neither a generator nor extra state: these keep their values.

        Raises
        ------
        InputError
            If the state belongs to another kind of optimizer, to tensors of other shapes, or to a generator on
            another kind of device.
        """
        inner = {key: value for key, value in state_dict.items() if key != _EXTRA}
        saved, own = inner["param_groups"], self.param_groups
        check_state(saved, inner["state"], own, self.state_names, set(self.defaults) & {"betas", "momentum"})
        extra = dict(state_dict.get(_EXTRA, {}))
        generator_state = extra.pop("generator", None)
        if generator_state is not None:
            generator = self.generator or torch.Generator()
            try:
                generator.set_state(generator_state.cpu())
            except (RuntimeError, TypeError):
                raise InputError(
                    "the state was saved with a generator of another kind of device: make the optimizer with one"
                ) from None
            self.generator = generator
        if len(saved) == len(own):  # options that PyTorch's optimizers or earlier versions lack
            given = [{name: v for name, v in group.items() if name != "params"} for group in own]
            inner["param_groups"] = [{**ours, **theirs} for ours, theirs in zip(given, saved, strict=True)]
        super().load_state_dict(inner)
        if extra:
            self.load_extra_state(extra)
