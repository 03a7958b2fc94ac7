"""Draw the README's picture: cache size and accuracy against the number of induced thoughts.

    python bench/readme_picture.py

Reads bench/results/accuracy.json, which bench/accuracy.py measured, and writes docs/pictures/flat-beside-growing.svg.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results" / "accuracy.json"
PICTURE = ROOT / "docs" / "pictures" / "flat-beside-growing.svg"
LARGEST = 100
LINES = (  # section of the results, strategy, label, color, marker
    ("long", "min-seek", "Min-Seek", "#0072B2", "o"),
    ("rules", "min-seek:rule=most-likely", "Min-Seek, rule most-likely (ours)", "#009E73", "^"),
    ("beyond", "budget-forcing", "budget forcing, past its context", "#D55E00", "s"),
    ("long", "budget-forcing", "budget forcing, until its context is full", "#CC79A7", "D"),
)
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "minseek",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
}


def cells_of(results: dict[str, Any], section: str, strategy: str) -> list[dict[str, Any]]:
    """Measured cells of a strategy, by thoughts from 1 to `LARGEST`."""
    found = [cell for cell in results[section]["cells"] if cell["strategy"] == strategy]
    return [cell for cell in found if cell["thoughts"] != "unbounded" and 1 <= cell["thoughts"] <= LARGEST]


def draw_panels(results: dict[str, Any], memory: Axes, accuracy: Axes) -> None:
    """Draw the mean peak cache into the first panel, accuracy with its 95 % interval into the second."""
    for section, strategy, label, color, marker in LINES:
        cells = cells_of(results, section, strategy)
        thoughts = [cell["thoughts"] for cell in cells]
        style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4, "label": label}
        memory.plot(thoughts, [cell["kv_bytes_peak"] / 1e6 for cell in cells], **style)
        accuracy.plot(thoughts, [100 * cell["accuracy"] for cell in cells], **style)
        low, high = ([100 * cell["interval"][side] for cell in cells] for side in (0, 1))
        accuracy.fill_between(thoughts, low, high, color=color, alpha=0.1, linewidth=0)
    memory.set_title("mean peak KV cache, MB", fontsize=10, loc="left")
    accuracy.set_title("right answers, %, and 95 % intervals", fontsize=10, loc="left")
    for panel in (memory, accuracy):
        panel.set_xscale("log")
        panel.set_xticks([1, 2, 4, 10, 20, 50, 100], ["1", "2", "4", "10", "20", "50", "100"])
        panel.minorticks_off()
        panel.set_ylim(bottom=0)
        panel.set_xlabel("induced thoughts")


def main() -> None:
    """Write the picture; the same results give the same file."""
    results = json.loads(RESULTS.read_text())
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained", facecolor="white")
        memory, accuracy = figure.subplots(1, 2)
        draw_panels(results, memory, accuracy)
        figure.legend(*memory.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.relative_to(ROOT)}: {results['machine']['date']}, commit {results['machine']['commit']}")


if __name__ == "__main__":
    main()
