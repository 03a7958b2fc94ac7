"""A sheet of calculation: numbered steps, one of which may be a slip that the rest then builds on."""

from __future__ import annotations

from random import Random


class Sheet:
    """Lines of a derivation, written step by step.

    Parameters
    ----------
    chance : Random
        Chooses what a slip looks like.
    slip : int or None
        The number of the step that goes wrong, from 0; None for a sound derivation.
    """

    def __init__(self, chance: Random, slip: int | None = None) -> None:
        self._chance, self._slip = chance, slip
        self._steps = 0
        self.lines: list[str] = []
        self.slipped_at: int | None = None  # line in which the slip is

    def note(self, text: str) -> None:
        """A line without a result."""
        self.lines.append(text)

    def number(self, left: str, value: int) -> int:
        """A line `left=value`; the value that stands there, on which the next steps must build."""
        if self._goes_wrong():
            value += self._chance.choice((-10, -2, -1, -1, 1, 1, 2, 10))
        self.lines.append(f"{left}={value}")
        return value

    def list(self, left: str, values: list[int]) -> list[int]:
        """A line `left: values`, likewise."""
        if self._goes_wrong() and values:
            at = self._chance.randrange(len(values))
            if len(values) > 1 and self._chance.random() < 0.5:
                other = (at + 1) % len(values)
                values = list(values)
                values[at], values[other] = values[other], values[at]
            else:
                values = [v + (i == at) * self._chance.choice((-1, 1)) for i, v in enumerate(values)]
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
        """Steps with a result so far."""
        return self._steps


def shown(values: list[int]) -> str:
    """A list as problems, derivations and answers write it."""
    return " ".join(map(str, values)) if values else "empty"


def factor(value: int) -> str:
    """A number behind an operator."""
    return f"({value})" if value < 0 else str(value)
