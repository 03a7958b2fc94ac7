"""Plot of four panels against the number of thoughts: accuracy, generated tokens, peak cache, seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import cycle
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseek.errors import InputError
from minseek.evaluation.accuracy_cells import EvalCell
from minseek.evaluation.thought_counts import format_thoughts, thoughts_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, safe for color-blind readers; markers and dashes differ, too."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
_STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "minseek",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}
_WIDE = 20  # a panel whose largest value exceeds its smallest by this factor gets a logarithmic axis


def import_matplotlib() -> None:
    """Draw a small picture to nowhere, if matplotlib is installed, so that a plan of memory counts what it loads."""
    with suppress(ImportError):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1))
        figure.subplots()
        for kind in ("png", "svg"):
            figure.savefig(BytesIO(), format=kind)


def draw_accuracy(cells: Sequence[EvalCell], paths: Sequence[Path], title: str = "") -> None:
    """Plot the cells of `minseek.evaluation.accuracy_cells.summarize` into files (svg, png or pdf by their suffix).

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("the picture needs matplotlib, which is not installed: pip install matplotlib") from None
    with rc_context(_STYLE):
        figure = Figure(figsize=(9, 6.4), layout="constrained", facecolor="white")
        panels: list[Axes] = list(figure.subplots(2, 2).flat)
        grid = sorted({cell.thoughts for cell in cells}, key=thoughts_order)
        _panel(
            panels[0],
            "accuracy, % (bands: 95 %; hollow: most chains were cut short)",
            cells,
            lambda cell: 100 * cell.accuracy,
            bands=True,
        )
        _panel(panels[1], "generated tokens", cells, lambda cell: cell.tokens)
        _panel(panels[2], "mean peak cache, MB", cells, lambda cell: cell.kv_bytes_peak / 1e6)
        _panel(panels[3], "seconds of the batch", cells, lambda cell: cell.seconds)
        for panel in panels:
            panel.set_xticks(range(len(grid)), ["∞" if n is None else str(format_thoughts(n)) for n in grid])
            panel.set_xlim(-0.3, len(grid) - 0.7)
        for panel in panels[2:]:
            panel.set_xlabel("induced thoughts")
        lines, names = panels[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=min(3, len(names)), frameon=False)
        if title:
            figure.suptitle(title, fontsize=10)
        for path in paths:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(
    panel: Axes, title: str, cells: Sequence[EvalCell], value: Callable[[EvalCell], float], *, bands: bool = False
) -> None:
    """Draw a line for every strategy; a strategy with a single point gets a dotted line across the panel."""
    grid = sorted({cell.thoughts for cell in cells}, key=thoughts_order)
    values = [height for cell in cells if not isnan(height := value(cell))]
    if min(values) > 0 and max(values) > _WIDE * min(values):
        panel.set_yscale("log")
    styles = zip(cycle(_COLORS), cycle(_MARKERS), cycle(_DASHES))
    for (color, marker, dash), name in zip(styles, dict.fromkeys(cell.strategy for cell in cells), strict=False):
        line = [cell for cell in cells if cell.strategy == name]
        xs, heights = [grid.index(cell.thoughts) for cell in line], [value(cell) for cell in line]
        cut = [(x, height) for x, height, cell in zip(xs, heights, line, strict=True) if cell.cut_short > 0.5]
        if cut:  # most chains ended earlier: these are the answers that they gave there
            x, y = zip(*cut, strict=True)
            hollow: dict[str, Any] = {"markerfacecolor": "white", "linestyle": "", "zorder": 3}
            panel.plot(x, y, color=color, marker=marker, markersize=4, **hollow)
        if len(line) == 1:
            panel.axhline(heights[0], color=color, linestyle=":", linewidth=1)
        panel.plot(xs, heights, color=color, marker=marker, markersize=4, linestyle=dash, linewidth=1.5, label=name)
        if bands:
            low, high = ([100 * cell.interval[side] for cell in line] for side in (0, 1))
            if len(line) == 1:
                reach = [[heights[0] - low[0]], [high[0] - heights[0]]]
                panel.errorbar(xs, heights, yerr=reach, color=color, capsize=2, linewidth=1)
            panel.fill_between(xs, low, high, color=color, alpha=0.12, linewidth=0)
    panel.set_title(title, fontsize=9, loc="left")
