"""Divergence: training that makes a model worse than it was on what it learns from."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

from minseek.tune.trainer import DivergedError, Trainer

MARGIN = 1.0
"""Loss, in nats, by which a model must be worse to count as useless: its tokens are e times less probable."""
_STEPS = 3
_FLAT = 1e-4  # distance from the logarithm of the vocabulary's size at which all logits are equal


class DivergenceCheck:
    """Compares the losses of a run with that of its first step; the limits are ours.

    A run has diverged if the losses of three steps in a row are `MARGIN` above both that of the first step and that of
    a model that knows nothing, the logarithm of the vocabulary's size, or are just that logarithm: all tokens are
    equally probable. At its end the loss of the first step's examples must not be `MARGIN` above what it was before
    training, nor that logarithm. A held-out loss that rises while these fall is overfitting, which ends nothing.

    Parameters
    ----------
    trainer : Trainer
    vocab_size : int
    progress : mutable mapping
        Progress of the run; ``first``, the loss of the first step, and ``high``, steps in a row, are kept in it.
    """

    def __init__(self, trainer: Trainer, vocab_size: int, progress: MutableMapping[str, Any]) -> None:
        self._trainer, self._ignorance, self._progress = trainer, math.log(vocab_size), progress

    def after_step(self, loss: float) -> None:
        """Check the loss of a step.

        Raises
        ------
        DivergedError
            If the run has diverged.
        """
        p = self._progress
        first = p.setdefault("first", loss)
        useless = loss > max(first, self._ignorance) + MARGIN or self._is_flat(loss, first)
        p["high"] = p.get("high", 0) + 1 if useless else 0
        if p["high"] >= _STEPS:
            raise DivergedError(
                f"the loss was {first:.4f} in the first step and is {loss:.4f}{self._remark(loss, first)} after "
                f"{p['step']} steps"
            )

    def at_end(self) -> None:
        """Check the loss of the first step's examples after the last step.

        Raises
        ------
        DivergedError
            If the run has diverged.
        """
        first = self._progress.get("first")  # checkpoints of earlier versions lack it
        loss = self._trainer.first_loss()
        if first is None:
            first = loss
        if not math.isfinite(loss) or loss > first + MARGIN or self._is_flat(loss, first):
            raise DivergedError(
                f"the loss of the first step's examples was {first:.4f} before training and is {loss:.4f}"
                f"{self._remark(loss, first)} after {self._progress['step']} steps"
            )

    def _remark(self, loss: float, first: float) -> str:
        return ", which takes all tokens for equally probable," if self._is_flat(loss, first) else ""

    def _is_flat(self, loss: float, first: float) -> bool:
        """True if a model whose loss was another one takes all tokens for equally probable."""
        return abs(loss - self._ignorance) < _FLAT < abs(first - self._ignorance)
