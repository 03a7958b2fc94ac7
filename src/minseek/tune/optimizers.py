"""The optimiser that the settings name, over given weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.lowbit.optim import PISGD, SGD, AdamW
from minseek.tune.settings import Settings

_PIECE = 2**20  # elements looked at at once: a norm in float32 makes a copy


def make_optimiser(weights: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """An optimiser whose random rounding and perturbation follow from the seed."""
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


def clip_gradients(weights: Sequence[nn.Parameter], longest: float) -> None:
    """Shorten all gradients together to a Euclidean norm of at most `longest`.

    Raises
    ------
    InputError
        If a gradient is not finite.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    squares = [_square(piece) for gradient in gradients for piece in torch.split(gradient.view(-1), _PIECE)]
    norm = float(torch.stack(squares).sum().sqrt())
    if norm != norm or norm == float("inf"):
        raise InputError("the gradient is not finite: give a smaller learning rate")
    if norm > longest:
        for gradient in gradients:
            gradient.mul_(longest / norm)


def _square(piece: Tensor) -> Tensor:
    return piece.float().square().sum()
