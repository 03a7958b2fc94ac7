"""Iterates besides the last: their average, and one drawn uniformly from all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from minseek.errors import InputError

Kept = Literal["average", "random"]


class Iterates:
    """Keeps what is asked for of the iterates it sees.

    The theory's output is an iterate drawn uniformly from all steps; a new one takes the place of the kept one with
    probability 1/k in step k, which comes to the same.
    """

    def __init__(self, keep: Sequence[Kept]) -> None:
        for name in keep:
            if name not in get_args(Kept):
                raise InputError(f"unknown iterate {name!r}: choose {', '.join(get_args(Kept))}")
        self._keep, self._tensors = tuple(keep), {}  # type: ignore[var-annotated]

    def see(self, tensors: list[Tensor], step: int, generator: torch.Generator | None) -> None:
        """Take in the iterate that step 1, 2, … begins from."""
        if "average" in self._keep:
            means = self._tensors.setdefault("average", [_zeros(t) for t in tensors])
            for mean, t in zip(means, tensors, strict=True):
                mean.lerp_(t.to(mean.dtype), 1 / step)
        if "random" in self._keep:
            device = None if generator is None else generator.device
            chance = float(torch.rand((), dtype=torch.float64, generator=generator, device=device))
            if chance < 1 / step:
                self._tensors["random"] = [t.detach().clone() for t in tensors]

    @contextmanager
    def shown(self, which: Kept, tensors: list[Tensor]) -> Iterator[None]:
        """Within it, `tensors` are what is kept."""
        if which not in self._tensors:
            kept = ", ".join(self._keep) or "nothing"
            why = "no step was done yet" if which in self._keep else f"what was to be kept is {kept}"
            raise InputError(f"there is no {which!r} iterate: {why}")
        own = [t.detach().clone() for t in tensors]
        try:
            _copy(self._tensors[which], tensors)
            yield
        finally:
            _copy(own, tensors)

    def state(self) -> dict[str, Any]:
        """To be saved."""
        return dict(self._tensors)

    def load(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self._tensors = {name: [t.clone() for t in tensors] for name, tensors in state.items()}


def _zeros(t: Tensor) -> Tensor:
    return torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))


@torch.no_grad()
def _copy(values: list[Tensor], tensors: list[Tensor]) -> None:
    for value, t in zip(values, tensors, strict=True):
        t.copy_(value)
