"""Rounding that gradients pass straight through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torch.autograd import Function

from minseek.lowbit.accumulate import apply
from minseek.lowbit.rounding import RoundingSpec


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `change` to the tensors in `value`; other classes than tuples, lists and dicts, such as caches, stay."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [map_tensors(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if type(value) is list:
        return [map_tensors(change, item) for item in value]
    if type(value) is dict:
        return {key: map_tensors(change, item) for key, item in value.items()}
    return value


class StraightThrough(Function):
    """Rounding whose gradient is that of the identity, and is itself rounded.

    ``StraightThrough.apply(x, forward, backward, generator, check)``: `forward` and `backward` are `RoundingSpec`, or
    None for no rounding; `check`, of no arguments, is called before the backward pass and may raise.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *how: Any) -> Tensor:
        """Round `x`."""
        ctx.how = how
        forward, _, generator, _ = how
        # A copy: the next module may work in place, which is not allowed on a Function's input.
        return x.clone() if forward is None else apply(forward, x, generator)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Round the gradient; the result is differentiable."""
        _, backward, generator, check = ctx.how
        check()
        grad = grads[0] if backward is None else straight_through(grads[0], backward, backward, generator, check)
        return grad, None, None, None, None


def straight_through(
    x: Tensor, forward: RoundingSpec | None, backward: RoundingSpec | None, generator: Any, check: Callable[[], None]
) -> Tensor:
    """Apply `StraightThrough`, with types."""
    return cast(Tensor, StraightThrough.apply(x, forward, backward, generator, check))  # type: ignore[no-untyped-call]
