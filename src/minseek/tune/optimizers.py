"""The optimizer that the settings name, and clipping of gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.lowbit.optim import PISGD, SGD, AdamW
from minseek.tune.settings import Settings

_CHUNK = 2**20  # elements at a time: a norm in float32 makes a copy


def make_optimizer(weights: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Make an optimizer whose random rounding and perturbation are determined by the seed."""
    device = weights[0].device
    assert settings.lr is not None
    assert settings.weight_decay is not None
    common: dict[str, Any] = {
        "lr": settings.lr,
        "weight_decay": settings.weight_decay,
        "generator": torch.Generator(device).manual_seed(settings.seed),
        "rounding": settings.rounding or "nearest-even",  # float32 is its own grid: nothing is rounded
    }
    if settings.optimizer == "adamw":
        return AdamW(weights, **common)
    common["momentum"] = settings.momentum
    if settings.optimizer == "sgd":
        return SGD(weights, **common)
    assert settings.radius is not None
    assert settings.samples is not None
    return PISGD(weights, radius=settings.radius, samples=settings.samples, **common)


def clip_gradients(weights: Sequence[nn.Parameter], max_norm: float) -> None:
    """Shorten all gradients together to a Euclidean norm of at most `max_norm`.

    Raises
    ------
    InputError
        If a gradient is not finite.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    squares = [_sum_of_squares(chunk) for gradient in gradients for chunk in torch.split(gradient.view(-1), _CHUNK)]
    norm = float(torch.stack(squares).sum().sqrt())
    if norm != norm or norm == float("inf"):
        raise InputError("the gradient is not finite: give a smaller learning rate")
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)


def _sum_of_squares(chunk: Tensor) -> Tensor:
    return chunk.float().square().sum()
