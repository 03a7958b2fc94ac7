"""How the learning rate moves over a run."""

from __future__ import annotations

import math

from minseek.errors import InputError


def learning_rate(peak: float, schedule: str, step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step.

    It rises in equal steps to `peak`, which it reaches in step ``warmup - 1``, then stays (``constant``) or falls
    towards 0, which it would reach in step `steps` (``linear``, and ``cosine`` along half a wave).

    Parameters
    ----------
    step, steps : int
        Which step, from 0, of how many.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    if schedule == "linear":
        return peak * (1 - done)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * done)) / 2
    return peak


def check_warmup(warmup: int, steps: int) -> None:
    """Refuse a run that ends before its learning rate has risen."""
    if warmup >= steps and warmup:
        raise InputError(f"warmup takes {warmup} of the run's {steps} steps: give fewer, or more steps")
