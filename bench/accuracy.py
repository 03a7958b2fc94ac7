"""Accuracy against the number of thoughts, of the tiny reasoning model on problems that were held out.

    python -m recipes.tiny_reasoner.problems --split test --count 500 > tasks.jsonl
    python bench/accuracy.py tasks.jsonl [--seeds 0,1,2] [--quick | --report]

It runs ``minseek bench`` and keeps its summary and picture. A stopped run goes on with the same command: what has
finished lies in build/accuracy/.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, kept, table, write

from minseek.cli import main as run_command

STRATEGIES = (
    "standard",
    "budget-forcing",
    "min-seek",
    "min-seek:rule=longest",
    "min-seek:rule=latest",
    "min-seek:rule=random",
    "min-seek:keep=2",
    "min-seek:keep=2,rule=random",
)
PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "accuracy.svg"


def report(figures: dict[str, Any]) -> str:
    """The table of docs/benchmarks.md."""
    head = ["strategy", "thoughts", "accuracy", "95 %", "less that at 0", "95 %", "ratio", "tokens", "peak MB", "s"]
    rows = []
    for cell in figures["cells"]:
        gained = cell["difference"] is not None and cell["thoughts"] != 0
        rows.append(
            [
                cell["strategy"],
                cell["thoughts"],
                f"{100 * cell['accuracy']:.1f} %",
                shown(cell["interval"]),
                f"{100 * cell['difference']:+.1f}" if gained else "",
                shown(cell["difference_interval"]) if gained else "",
                f"{cell['normalised']:.3f}" if gained and cell["normalised"] is not None else "",
                f"{cell['tokens']:,.0f}",
                f"{cell['kv_bytes_peak'] / 1e6:.2f}",
                f"{cell['seconds']:.2f}",
            ]
        )
    title = f"{figures['model']}, {figures['cells'][0]['tasks']} tasks, {figures['cells'][0]['tries']} tries"
    speed = figures.get("run")
    if speed:
        rate = speed["generated"] / speed["seconds"]
        title += f"; {speed['generated']:,} tokens in {speed['seconds']:.0f} s, {rate:,.0f} tokens/s"
    return table(title, head, rows)


def shown(interval: list[float]) -> str:
    """An interval of shares in per cent."""
    return f"{100 * interval[0]:.1f} … {100 * interval[1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", help="a file of tasks; --report needs none")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--thoughts", default="0,2,4,6,10,20,50,100")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--strategy", action="append", help="instead of those of the table")
    parser.add_argument("--sequences", default="64")
    parser.add_argument("--output", default="build/accuracy", help="where results gather")
    parser.add_argument("--quick", action="store_true", help="20 tasks and few thoughts; nothing is kept")
    parser.add_argument("--report", action="store_true", help="print the table of the figures that are kept")
    args = parser.parse_args()
    if args.report:
        print(report(kept("accuracy")))
        return
    if args.tasks is None:
        parser.error("give a file of tasks")
    folder = Path(args.output + "-quick" if args.quick else args.output)
    given = ["bench", args.tasks, "-m", args.model, "-o", str(folder), "--seeds", args.seeds]
    given += ["--sequences", args.sequences, "--thoughts", "0,2,4" if args.quick else args.thoughts]
    given += ["--limit", "20", "--overwrite"] if args.quick else []
    for name in args.strategy or STRATEGIES:
        given += ["--strategy", name]
    code = run_command(given)
    if code:
        sys.exit(code)
    figures = json.loads((folder / "summary.json").read_text())
    if not args.quick:
        if figures["run"] is None and (RESULTS / "accuracy.json").exists():
            figures["run"] = kept("accuracy").get("run")  # nothing was left to run: the speed is the earlier one's
        write("accuracy", figures, "matplotlib", "math-verify")
        shutil.copyfile(folder / "accuracy.svg", PICTURE)
    print(report(figures))


if __name__ == "__main__":
    main()
