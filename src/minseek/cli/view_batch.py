"""Output of ``minseek batch``: a live line on standard error, and one sentence at the end."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from minseek.cli.live import LiveLine

if TYPE_CHECKING:
    from minseek.batch import BatchProgress, BatchSummary

_LOG_SECONDS = 30.0  # between lines without a terminal, so that a log shows that the run is alive


class BatchView(LiveLine):
    """Shows the progress of a run.

    Parameters
    ----------
    quiet : bool
        No live line, because results go to the same terminal.
    """

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console

        self._progress: BatchProgress | None = None
        console = Console(stderr=True, highlight=False)
        super().__init__(console, live=console.is_terminal and not quiet)
        self._logged = time.perf_counter()

    def update(self, progress: BatchProgress) -> None:
        """Show the state after a line has been written."""
        self._progress = progress
        if not self._is_live and time.perf_counter() - self._logged > _LOG_SECONDS:
            self._logged = time.perf_counter()
            print(f"minseek: {self._status()}", file=sys.stderr)

    @property
    def written(self) -> int:
        """Number of lines written."""
        return 0 if self._progress is None else self._progress.done + self._progress.failed

    def summary(self, done: BatchSummary) -> str:
        """Describe the whole run in a sentence."""
        return f"{done.done} done, {done.failed} failed in {done.seconds:.1f} s{self._speeds()}"

    def _status(self) -> str:
        p = self._progress
        if p is None:
            return ""
        in_use = p.engine.in_use if p.engine else 0
        slots = f"{in_use} of {p.slots} slots in use"
        return f"{self.written} of {p.total} · {p.failed} failed · {slots}{self._speeds()}"

    def _speeds(self) -> str:
        """Tokens a second: prefill over its passes, decoding over the whole time, since both share passes."""
        engine = None if self._progress is None else self._progress.engine
        if engine is None:
            return ""
        seconds = engine.prefill_seconds + engine.decode_seconds
        prefill = f"{engine.prefill_tokens / engine.prefill_seconds:,.0f}" if engine.prefill_seconds else "0"
        decode = f"{engine.decode_tokens / seconds:,.0f}" if seconds else "0"
        return f" · prefill {prefill} tok/s · decode {decode} tok/s"
