"""The average of all iterates, and one drawn uniformly from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from minseek.errors import InputError

Kept = Literal["average", "random"]


class Iterates:
    """Keeps the average of the iterates, one of them drawn at random, or both.

    The theory's output is an iterate drawn uniformly from all steps. Replacing the kept one with probability 1/k in
    step k has the same distribution.
    """

    def __init__(self, keep: Sequence[Kept]) -> None:
        for name in keep:
            if name not in get_args(Kept):
                raise InputError(f"unknown iterate {name!r}: choose {', '.join(get_args(Kept))}")
        self._keep, self._tensors = tuple(keep), {}  # type: ignore[var-annotated]

    def record(self, tensors: list[Tensor], step: int, generator: torch.Generator | None) -> None:
        """Record the iterate at the start of step 1, 2, …"""
        if "average" in self._keep:
            means = self._tensors.setdefault("average", [_zeros(t) for t in tensors])
            means += [_zeros(t).copy_(t) for t in tensors[len(means) :]]  # added later: they have not moved before
            for mean, t in zip(means, tensors, strict=True):
                mean.lerp_(t.to(mean.dtype), 1 / step)
        if "random" in self._keep:
            device = None if generator is None else generator.device
            draw = float(torch.rand((), dtype=torch.float64, generator=generator, device=device))
            if draw < 1 / step:
                self._tensors["random"] = []
            kept = self._tensors["random"]
            kept += [t.detach().clone() for t in tensors[len(kept) :]]

    @contextmanager
    def swapped_in(self, which: Kept, tensors: list[Tensor]) -> Iterator[None]:
        """Give `tensors` the values of a kept iterate inside the context."""
        if which not in self._tensors:
            reason = "no step was taken yet" if which in self._keep else f"name it in keep, which is {self._keep}"
            raise InputError(f"there is no {which!r} iterate: {reason}")
        current = [t.detach().clone() for t in tensors]
        try:
            _copy(self._tensors[which], tensors)
            yield
        finally:
            _copy(current, tensors)

    def state(self) -> dict[str, Any]:
        """State to save."""
        return dict(self._tensors)

    def load(self, state: dict[str, Any]) -> None:
        """Restore the value of `state`."""
        self._tensors = {name: [t.clone() for t in tensors] for name, tensors in state.items()}


def _zeros(t: Tensor) -> Tensor:
    return torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))


@torch.no_grad()
def _copy(values: list[Tensor], tensors: list[Tensor]) -> None:
    for value, t in zip(values, tensors, strict=False):  # parameters added after the last step have no value
        t.copy_(value)
