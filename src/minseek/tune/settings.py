"""Settings of a tuning run: everything that, with the model and the data, determines the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

import torch

from minseek.errors import InputError, check_type

DTYPES = {"bf16": torch.bfloat16, "float32": torch.float32}
"""Formats of weights, gradients and state."""

_CHOICES = {
    "format": tuple(DTYPES),
    "rounding": ("stochastic", "nearest-even"),
    "optimizer": ("sgd", "pisgd", "adamw"),
    "schedule": ("constant", "linear", "cosine"),
}
_LR = {"sgd": 0.01, "pisgd": 0.01, "adamw": 2e-5}
_WEIGHT_DECAY = {"sgd": 0.0, "pisgd": 0.0, "adamw": 0.01}
_ONE_OR_MORE = ("samples", "max_length", "batch_size", "gradient_accumulation_steps", "steps", "eval_every")
_POSITIVE = ("lr", "max_grad_norm", "radius", "epochs")
_INTEGERS = (*_ONE_OR_MORE, "warmup", "seed")
_NUMBERS = (*_POSITIVE, "momentum", "weight_decay", "eval_share")


@dataclass(frozen=True)
class Settings:
    """Settings of a run; the same settings, model and data give the same weights.

    Parameters
    ----------
    format : str
        Format of weights, gradients and state: ``bf16`` or ``float32``.
    rounding : str or None
        Rounding of bf16 weights and state: ``stochastic`` (also None) or ``nearest-even``; float32 takes none.
    optimizer : str
        ``sgd``, ``pisgd`` (perturbed iterates) or ``adamw``.
    lr, momentum, weight_decay : float or None
        None is 0.01 for sgd and pisgd, 2e-5 for adamw; no momentum; a weight decay of 0, for adamw 0.01.
    max_grad_norm : float or None
        Larger gradients are scaled down to this Euclidean norm, over all trained weights.
    radius, samples : float, int or None
        For pisgd: radius of the perturbation of all trained weights together (0.5), and gradients averaged in a step
        (1), all of the same examples.
    max_length, batch_size, gradient_accumulation_steps : int
        Tokens of a sequence, sequences of a pass, passes of a step.
    steps, epochs : int, float or None
        Length of the run, by one of the two; None for both is one epoch. The last step takes the examples left.
    schedule, warmup : str, int
        The learning rate after `warmup` steps of rising: ``constant``, or falling to 0 (``linear``, ``cosine``).
    layers : str or None
        Trained layers, such as ``"20-29,embedding,head,norm"``; numbers start at 0; None is everything.
    gradient_checkpointing : bool
        Keep only the states between layers, and compute each layer twice.
    seed : int
        Seed of the order of examples and of all random rounding and perturbation.
    eval_share : float or None
        Held-out share of the examples, the last ones (0.05); 0 holds nothing out.
    eval_every : int or None
        Steps between two evaluations of the held-out loss; None evaluates before the first and after the last.

    Raises
    ------
    InputError
        If a value is out of range, or has no effect with the others.
    TypeError
        If a value is of another type.
    """

    format: Literal["bf16", "float32"] = "bf16"
    rounding: Literal["stochastic", "nearest-even"] | None = None
    optimizer: Literal["sgd", "pisgd", "adamw"] = "sgd"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    radius: float | None = None
    samples: int | None = None
    max_length: int = 512
    batch_size: int = 1
    gradient_accumulation_steps: int = 8
    steps: int | None = None
    epochs: float | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = 0
    layers: str | None = None
    gradient_checkpointing: bool = False
    seed: int = 0
    eval_share: float | None = None
    eval_every: int | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (*choices, None) or (name != "rounding" and getattr(self, name) is None):
                raise InputError(f"unknown {name} {getattr(self, name)!r}: choose {', '.join(choices)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                object.__setattr__(self, field.name, _checked(field.name, value))
        self._check_effects()
        defaults: dict[str, Any] = {
            "lr": _LR[self.optimizer],
            "weight_decay": _WEIGHT_DECAY[self.optimizer],
            "eval_share": 0.05,
        }
        if self.format != "float32":
            defaults["rounding"] = "stochastic"
        if self.optimizer != "adamw":
            defaults["momentum"] = 0.0
        if self.optimizer == "pisgd":
            defaults |= {"radius": 0.5, "samples": 1}
        if self.steps is None:
            defaults["epochs"] = 1.0
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights, gradients and state."""
        return DTYPES[self.format]

    def _check_effects(self) -> None:
        """Refuse settings that have no effect with the others."""
        without = [name for name in ("radius", "samples") if self.optimizer != "pisgd"]
        without += ["momentum"] if self.optimizer == "adamw" else []
        for name in without:
            if getattr(self, name) is not None:
                raise InputError(f"{name} has no effect with optimizer {self.optimizer}: leave it out")
        if self.format == "float32" and self.rounding is not None:
            raise InputError(f"rounding {self.rounding!r} has no effect with format float32: leave it out")
        if self.steps is not None and self.epochs is not None:
            raise InputError(
                f"steps ({self.steps}) and epochs ({self.epochs:g}) both set the length of the run: give one of them"
            )
        if self.eval_every is not None and self.eval_share == 0:
            raise InputError(f"eval_every {self.eval_every} has no effect with an eval_share of 0: leave it out")


def _checked(name: str, value: Any) -> Any:
    """Check a given setting and return it as a Python number: NumPy's cannot be written as JSON."""
    if name in _INTEGERS:
        check_type(f"{name} must be an integer", value, Integral)
        value = int(value)
    elif name in _NUMBERS:
        check_type(f"{name} must be a number", value, Real)
        value = float(value)
    else:
        if name == "gradient_checkpointing":
            check_type(f"{name} must be True or False", value, bool)
        if name == "layers":
            check_type(f"{name} must be a text such as '20-29,head'", value, str)
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be a number, not {value}")
    if name in _ONE_OR_MORE and value < 1:
        raise InputError(f"{name} must be 1 or more, not {value}")
    if name == "max_length" and value < 2:
        raise InputError(f"max_length must be 2 or more, not {value}: the first token of a sequence is not predicted")
    if name in _POSITIVE and value <= 0:
        raise InputError(f"{name} must be above 0, not {value:g}")
    if name in ("weight_decay", "warmup", "seed") and value < 0:
        raise InputError(f"{name} must be 0 or more, not {value:g}")
    if name in ("momentum", "eval_share") and not 0 <= value < 1:
        raise InputError(f"{name} must be at least 0 and below 1, not {value:g}")
    if name == "seed" and value >= 2**63:
        raise InputError(f"seed must be below 2^63, not {value}")
    return value
