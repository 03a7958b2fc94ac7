"""Entries of a run's log, and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LogEntry:
    """A line of the log.

    Attributes
    ----------
    event : str
        ``step``, ``held-out`` or ``end``.
    step, steps, tokens : int
        Steps taken, steps of the run, and tokens read so far.
    seconds : float
        Training time, without interruptions.
    memory : int or None
        Peak so far, bytes; None where it cannot be measured.
    learning_rate, loss, held_out_loss : float or None
        Learning rate of a step, loss of its examples before it, and loss of the held-out examples.
    planned : int or None
        Bytes of the plan; in the last entry.
    """

    event: str
    step: int
    steps: int
    tokens: int
    seconds: float
    memory: int | None
    learning_rate: float | None = None
    loss: float | None = None
    held_out_loss: float | None = None
    planned: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Values for the log, without those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class TuneResult:
    """Result of a run.

    Attributes
    ----------
    finished : bool
        False if it was stopped; the same call resumes it.
    steps, tokens : int
        Steps taken and tokens read, in all.
    seconds : float
        Training time, in all.
    loss : float or None
        Loss of the last step.
    held_out_before, held_out_after : float or None
        Held-out loss before the first and after the last step.
    memory : int or None
        Measured peak, bytes; None where it cannot be measured.
    """

    finished: bool
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    held_out_before: float | None
    held_out_after: float | None
    memory: int | None
