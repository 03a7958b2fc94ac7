"""Learning-rate schedules."""

from __future__ import annotations

import math

from minseek.errors import InputError


def learning_rate(peak: float, schedule: str, step: int, steps: int, warmup: int) -> float:
    """Learning rate of a step.

    It rises in equal steps to `peak` in step ``warmup - 1``, then stays there (``constant``) or falls toward 0, which
    it would reach in step `steps` (``linear``, or ``cosine`` along half a wave).

    Parameters
    ----------
    step, steps : int
        Index of the step, from 0, and steps of the run.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    if schedule == "linear":
        return peak * (1 - progress)
    if schedule == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    return peak


def check_warmup(warmup: int, steps: int) -> None:
    """Refuse a run that ends before its learning rate has risen."""
    if warmup >= steps and warmup:
        raise InputError(f"warmup takes {warmup} of the run's {steps} steps: give fewer, or more steps")
