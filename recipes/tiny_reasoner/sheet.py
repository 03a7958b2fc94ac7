"""A derivation of numbered steps, one of which may contain a slip that later steps build on."""

from __future__ import annotations

from random import Random


class Sheet:
    """Lines of a derivation, written step by step.

    Parameters
    ----------
    rng : Random
        Random numbers for slips.
    slip : int or None
        Index of the wrong step; None for a correct derivation.
    """

    def __init__(self, rng: Random, slip: int | None = None) -> None:
        self._rng, self._slip = rng, slip
        self._steps = 0
        self.lines: list[str] = []
        self.slipped_at: int | None = None  # line of the slip

    def note(self, text: str) -> None:
        """Add a line without a result."""
        self.lines.append(text)

    def number(self, left: str, value: int) -> int:
        """Add a line `left=value`; returns the value as written, which the next steps must use."""
        if self._goes_wrong():
            value += self._rng.choice((-10, -2, -1, -1, 1, 1, 2, 10))
        self.lines.append(f"{left}={value}")
        return value

    def list(self, left: str, values: list[int]) -> list[int]:
        """Add a line `left: values`; returns the values as written."""
        if self._goes_wrong() and values:
            at = self._rng.randrange(len(values))
            if len(values) > 1 and self._rng.random() < 0.5:
                other = (at + 1) % len(values)
                values = list(values)
                values[at], values[other] = values[other], values[at]
            else:
                values = [v + (i == at) * self._rng.choice((-1, 1)) for i, v in enumerate(values)]
        self.lines.append(f"{left}: {shown(values)}")
        return values

    def _goes_wrong(self) -> bool:
        self._steps += 1
        wrong = self._steps - 1 == self._slip
        if wrong:
            self.slipped_at = len(self.lines)
        return wrong

    @property
    def steps(self) -> int:
        """Number of steps with a result so far."""
        return self._steps


def shown(values: list[int]) -> str:
    """Format a list for problems, derivations and answers."""
    return " ".join(map(str, values)) if values else "empty"


def factor(value: int) -> str:
    """Format a number after an operator."""
    return f"({value})" if value < 0 else str(value)
