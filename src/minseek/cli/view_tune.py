"""Progress of a tuning run: a live line on standard error, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from minseek.cli.live import LiveLine
from minseek.units import format_bytes

if TYPE_CHECKING:
    from minseek.tune import LogEntry

_LOG_SECONDS = 10.0  # between lines of steps where there is no terminal


class TuneView(LiveLine):
    """Shows the entries of a run's log."""

    def __init__(self) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        super().__init__(console, live=console.is_terminal)
        self._entry: LogEntry | None = None
        self._held_out: float | None = None
        self._first: tuple[int, float] | None = None  # tokens and seconds when this process started or resumed the run
        self._last_line = -_LOG_SECONDS

    def show(self, entry: LogEntry) -> None:
        """Show an entry."""
        if self._first is None:
            self._first = entry.tokens, entry.seconds
        if entry.held_out_loss is not None:
            self._held_out = entry.held_out_loss
        self._entry = entry
        if entry.event == "held-out":
            self.say(f"held-out loss {entry.held_out_loss:.4f} after step {entry.step} of {entry.steps}")
        elif entry.event == "step" and not self._is_live:
            now = time.perf_counter()
            if now - self._last_line > _LOG_SECONDS or entry.step == entry.steps:
                self._last_line = now
                self.say(self._status())

    def say(self, line: str) -> None:
        """Print a line of its own."""
        if self._is_live:
            self._console.print(f"minseek: {line}", markup=False, soft_wrap=True)
        else:
            print(f"minseek: {line}", file=sys.stderr, flush=True)

    def _status(self) -> str:
        entry = self._entry
        if entry is None or self._first is None:
            return "loading the weights"
        parts = [f"step {entry.step} of {entry.steps}"]
        if entry.loss is not None:
            parts.append(f"loss {entry.loss:.4f}")
        if self._held_out is not None:
            parts.append(f"held-out loss {self._held_out:.4f}")
        tokens, seconds = entry.tokens - self._first[0], entry.seconds - self._first[1]
        if tokens and seconds:
            parts.append(f"{tokens / seconds:,.0f} tok/s")
        if entry.memory is not None:
            parts.append(format_bytes(entry.memory))
        return " · ".join(parts)
