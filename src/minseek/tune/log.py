"""What a run tells: entries of its log while it goes on, and what it came to."""

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
        Steps taken, of how many, and tokens read in them.
    seconds : float
        Since training began, interruptions left out.
    memory : int or None
        Bytes at the peak so far; None where they cannot be measured.
    learning_rate, loss, held_out_loss : float or None
        Of a step, of its examples before it, and of the held-out examples.
    planned : int or None
        Bytes of the plan, at the end.
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
        """For the log: without what does not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    finished : bool
        False if it was stopped; the same call goes on.
    steps, tokens : int
        Taken and read, in all.
    seconds : float
        Of training, in all.
    loss : float or None
        Of the last step.
    held_out_before, held_out_after : float or None
        The held-out loss.
    memory : int or None
        Measured peak, bytes.
    """

    finished: bool
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    held_out_before: float | None
    held_out_after: float | None
    memory: int | None
