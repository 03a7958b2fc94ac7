"""Rounding that gradients pass straight through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor
from torch.autograd import Function

from minseek.lowbit.accumulate import apply
from minseek.lowbit.rounding import RoundingSpec


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with its tensors changed; other classes than tuples, lists and dicts stay, as a cache has to."""
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
    """Rounds one way, and the gradient another way, as though the first were the identity.

    ``StraightThrough.apply(x, forward, backward, generator, check)``: `forward` and `backward` are `RoundingSpec` or None,
    which leaves the numbers alone; `check`, of no arguments, is called before the backward pass and may raise.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *how: Any) -> Tensor:
        """`x` rounded."""
        ctx.how = how
        forward, _, generator, _ = how
        # A copy: the module that gets it may work in place, which a Function's own input would not allow.
        return x.clone() if forward is None else apply(forward, x, generator)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradient rounded; differentiable in its turn."""
        _, backward, generator, check = ctx.how
        check()
        grad = grads[0] if backward is None else straight_through(grads[0], backward, backward, generator, check)
        return grad, None, None, None, None


def straight_through(
    x: Tensor, forward: RoundingSpec | None, backward: RoundingSpec | None, generator: Any, check: Callable[[], None]
) -> Tensor:
    """`StraightThrough`, typed."""
    return cast(Tensor, StraightThrough.apply(x, forward, backward, generator, check))  # type: ignore[no-untyped-call]
