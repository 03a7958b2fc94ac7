"""Display of an evaluation: a live line on standard error, and a table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minseek.cli.live import LiveLine
from minseek.units import format_bytes, format_count

if TYPE_CHECKING:
    from rich.table import Table

    from minseek.evaluation.accuracy_cells import EvalCell, Interval
    from minseek.evaluation.eval_records import EvalRecord
    from minseek.evaluation.evaluation import Evaluation

_LOG_SECONDS = 30.0  # between lines without a terminal, so that a log shows progress
_WIDTH = 170


class EvalView(LiveLine):
    """Counts trials and shows them with the engine's figures."""

    def __init__(self, evaluation: Evaluation) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        super().__init__(console, live=console.is_terminal)
        self._evaluation, self._total = evaluation, len(evaluation.remaining)
        self._slots = evaluation.plan.slots
        self.done = self.generated = self._right = 0
        self._began = self._logged = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the sweep began."""
        return time.perf_counter() - self._began

    def add(self, record: EvalRecord) -> None:
        """Count a finished trial."""
        self.done += 1
        self.generated += record.generated
        self._right += record.points[-1].right
        if not self._is_live and time.perf_counter() - self._logged > _LOG_SECONDS:
            self._logged = time.perf_counter()
            print(f"minseek: {self._status()}", file=sys.stderr, flush=True)

    def summary(self) -> str:
        """The run in a sentence."""
        speed = self.generated / max(self.seconds, 1e-9)
        counts = f"{format_count(self.done, 'trial')}, {format_count(self.generated, 'token')}"
        return f"{counts} in {self.seconds:.1f} s ({speed:,.0f} tok/s)"

    def _status(self) -> str:
        progress = self._evaluation.progress
        generated, in_use = (progress.decode_tokens, progress.in_use) if progress else (0, 0)
        speed = generated / max(self.seconds, 1e-9)
        parts = [f"{self.done} of {self._total} trials"]
        if self.done:
            parts.append(f"{100 * self._right / self.done:.0f} % correct at the end")
        parts += [f"{in_use} of {self._slots} slots in use", f"{speed:,.0f} tok/s"]
        if self.done >= self._slots:  # the first ones to finish are the short ones
            left = self.seconds * (self._total - self.done) / self.done
            parts.append(f"{left / 60:.0f} min left" if left >= 90 else f"{left:.0f} s left")
        return " · ".join(parts)


def print_table(cells: Sequence[EvalCell], title: str) -> None:
    """Print a table of the cells on standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    console.print(_table(cells, title))


def _table(cells: Sequence[EvalCell], title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("strategy", overflow="fold")
    heads = ("thoughts", "accuracy % (95 %)", "gain over 0 (95 %)", "ratio to 0")
    for head in (*heads, "tokens", "mean peak", "seconds", "reached", "cut short %", "tries"):
        table.add_column(head, justify="right")
    before = None
    for cell in cells:
        if before is not None and cell.strategy != before:
            table.add_section()
        table.add_row(
            cell.strategy if cell.strategy != before else "",
            "unbounded" if cell.thoughts is None else str(cell.thoughts),
            f"{100 * cell.accuracy:.1f} {_shown(cell.interval)}",
            _difference(cell),
            "" if cell.normalized is None or cell.thoughts == 0 else f"{cell.normalized:.3f}",
            f"{cell.tokens:,.0f}",
            format_bytes(round(cell.kv_bytes_peak)),
            f"{cell.seconds:.2f}",
            f"{cell.reached:.1f}",
            f"{100 * cell.cut_short:.0f}",
            str(cell.tries),
        )
        before = cell.strategy
    return table


def _difference(cell: EvalCell) -> str:
    if cell.difference is None or cell.difference_interval is None or cell.thoughts == 0:
        return ""
    return f"{100 * cell.difference:+.1f} {_shown(cell.difference_interval)}"


def _shown(interval: Interval) -> str:
    low, high = interval
    return f"({100 * low:.1f} … {100 * high:.1f})"
