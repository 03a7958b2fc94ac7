"""Checks of what an optimizer is given: numbers, tensors, gradients, saved states, and PyTorch's own flags."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from typing import Any, TypedDict

from torch import Tensor

from minseek.errors import InputError, check_type


class TorchFlags(TypedDict, total=False):
    """Flags of PyTorch's optimizers: the first two choose an implementation, and the others must be False."""

    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool
    amsgrad: bool


def check_flags(flags: Mapping[str, Any]) -> None:
    """Refuse flags that ask for something that these optimizers do not do.

    Raises
    ------
    TypeError
        If a flag is unknown.
    InputError
        If one is not supported; it is named.
    """
    for name, value in flags.items():
        if name not in TorchFlags.__annotations__:
            raise TypeError(f"unexpected keyword argument {name!r}")
        if value and name not in ("foreach", "fused"):
            raise InputError(f"{name}={value} is not supported: leave it out")


def check_memory(p: Tensor) -> None:
    """Refuse a parameter whose elements share memory, as those of an expanded tensor do.

    Raises
    ------
    InputError
        If they do.
    """
    if any(stride == 0 and size > 1 for stride, size in zip(p.stride(), p.shape, strict=True)):
        raise InputError(f"elements of a parameter of shape {tuple(p.shape)} share memory: replace it by its clone()")


def check_gradient(p: Tensor) -> Tensor:
    """Return a parameter's gradient.

    Raises
    ------
    InputError
        If it is sparse, or of another shape, which it is when the parameter's data have been replaced.
    """
    assert p.grad is not None
    if p.grad.is_sparse:
        raise InputError("sparse gradients are not supported: make the embedding's dense (sparse=False)")
    check_shape("the gradient", p.grad, p)
    return p.grad


def check_shape(label: str, tensor: Tensor, p: Tensor) -> None:
    """Refuse a tensor of another shape than its parameter's.

    Raises
    ------
    InputError
        If it has one.
    """
    if tensor.shape != p.shape:
        raise InputError(
            f"{label} of a parameter has the shape {tuple(tensor.shape)} and the parameter {tuple(p.shape)}: make the "
            "optimizer again after parameters have been resized"
        )


def check_positive(**numbers: float) -> None:
    """Refuse negative numbers and values that are not numbers.

    Raises
    ------
    InputError, TypeError
        If there is one; the first is named.
    """
    for name, number in numbers.items():
        check_type(f"{name} must be a number", number, (Real, Tensor))  # PyTorch takes a tensor as learning rate
        if isinstance(number, Tensor) and number.numel() != 1:
            raise InputError(f"{name} must be one number, not a tensor of shape {tuple(number.shape)}")
        if not number >= 0:
            raise InputError(f"{name} must be 0 or more, not {number}")


def check_state(
    saved: Sequence[Mapping[str, Any]],
    state: Mapping[int, Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    names: Collection[str],
    options: Collection[str],
) -> None:
    """Refuse the state of another kind of optimizer, and tensors that do not have their parameter's shape.

    Parameters
    ----------
    saved, state : sequence of mapping, mapping
        Parameter groups and state of a state_dict.
    groups : sequence of mapping
        Parameter groups of the optimizer.
    names, options : collection of str
        Names that a parameter's state may have, and options that every saved group has.

    Raises
    ------
    InputError
        If there is one; numbers of groups and parameters are left to PyTorch to check.
    """
    for group in saved:
        if missing := set(options) - set(group):
            raise InputError(f"the state belongs to another kind of optimizer: its groups lack {min(missing)!r}")
    parameters = [p for group in groups for p in group["params"]]
    indices = [index for group in saved for index in group["params"]]
    for index, p in zip(indices, parameters, strict=False):
        for name, value in state.get(index, {}).items():
            if value is not None and name not in names:
                raise InputError(f"the state belongs to another kind of optimizer: {name!r} of a parameter is unknown")
            if isinstance(value, Tensor) and name != "step":
                check_shape(f"the saved {name}", value, p)
