"""What a user sees of a batch: a live line on standard error, and one sentence at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from minseek.cli.live import LiveLine

if TYPE_CHECKING:
    from minseek.engine.engine import Progress

_LOG_SECONDS = 30.0  # between lines where there is no terminal, so that a log shows that the run goes on


class BatchView(LiveLine):
    """Counts lines and shows them with the engine's figures.

    Parameters
    ----------
    total : int
        Lines to write.
    slots : int
        Sequences in flight at most.
    progress : Progress or None
        The engine's figures; None where nothing needs to be run.
    quiet : bool
        No live line: results go to the same terminal.
    """

    def __init__(self, total: int, slots: int, progress: Progress | None, *, quiet: bool) -> None:
        from rich.console import Console

        self.done = self.failed = 0
        self._total, self._slots = total, slots
        self._engine = progress
        console = Console(stderr=True, highlight=False)
        super().__init__(console, wanted=console.is_terminal and not quiet)
        self._began = self._logged = time.perf_counter()

    def wrote(self, *, failed: bool) -> None:
        """A line was written."""
        self.done += not failed
        self.failed += failed
        if not self._live_wanted and time.perf_counter() - self._logged > _LOG_SECONDS:
            self._logged = time.perf_counter()
            print(f"minseek: {self._status()}", file=sys.stderr)

    @property
    def written(self) -> int:
        """Lines written."""
        return self.done + self.failed

    def summary(self) -> str:
        """The whole run in a sentence."""
        seconds = time.perf_counter() - self._began
        return f"{self.done} done, {self.failed} failed in {seconds:.1f} s{self._speeds()}"

    def _status(self) -> str:
        in_use = self._engine.in_use if self._engine else 0
        slots = f"{in_use} of {self._slots} slots in use"
        return f"{self.written} of {self._total} · {self.failed} failed · {slots}{self._speeds()}"

    def _speeds(self) -> str:
        """Tokens a second: of prompts while any is read, of output over the whole time, since both share passes."""
        p = self._engine
        if p is None:
            return ""
        seconds = p.prefill_seconds + p.decode_seconds
        prefill = f"{p.prefill_tokens / p.prefill_seconds:,.0f}" if p.prefill_seconds else "0"
        decode = f"{p.decode_tokens / seconds:,.0f}" if seconds else "0"
        return f" · prefill {prefill} tok/s · decode {decode} tok/s"
