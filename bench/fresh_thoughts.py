"""Fresh thoughts on the tiny reasoning model, by kind of problem, paired with no induced thought.

    python -m recipes.tiny_reasoner.problems --split test --count 1000 | tail -n 500 > tasks.jsonl
    python bench/fresh_thoughts.py tasks.jsonl

It runs ``minseek eval``; a stopped run goes on with the same command. The 500 problems are those of bench/accuracy.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import table, write

from minseek.cli import main as run_command
from minseek.evaluation.eval_file import read_eval_results
from minseek.evaluation.eval_records import TrialPoint, points_by_cell
from minseek.evaluation.intervals import Bootstrap, paired_interval

FOLDER = Path(__file__).parent.parent / "build" / "fresh-thoughts"
THOUGHTS = (2, 4, 10)
Points = dict[tuple[str, int], TrialPoint]


def compare(none: Points, induced: Points) -> dict[str, Any]:
    """Right answers without and with induced thoughts on the same problems."""
    keys = sorted(none)
    gains = np.array([float(induced[key].right) - none[key].right for key in keys])
    return {
        "tries": len(keys),
        "none": sum(none[key].right for key in keys),
        "right": sum(induced[key].right for key in keys),
        "difference": float(gains.mean()),
        "interval": paired_interval(gains, np.ones(len(gains)), Bootstrap(len(gains))),
        "repaired": int((gains > 0).sum()),
        "spoiled": int((gains < 0).sum()),
        "tokens": float(np.mean([induced[key].tokens for key in keys])),
        "tokens_none": float(np.mean([none[key].tokens for key in keys])),
        "thoughts": float(np.mean([induced[key].reached for key in keys])),
        "kv_tokens_peak": float(np.mean([induced[key].kv_tokens_peak for key in keys])),
    }


def gather(tasks: Path) -> list[dict[str, Any]]:
    """Figures for each number of thoughts, all problems first, then kind by kind."""
    file = FOLDER / "results.jsonl"
    with file.open() as stream:
        settings = json.loads(stream.readline())["settings"]
    cells = points_by_cell(read_eval_results(file, settings).records.values())
    kinds = {task["id"]: task["kind"] for task in map(json.loads, tasks.read_text().splitlines())}
    rows = []
    for thoughts in THOUGHTS:
        for kind in ["all", *dict.fromkeys(kinds.values())]:
            none, induced = (
                {key: point for key, point in cells[cell].items() if kind in ("all", kinds[key[0]])}
                for cell in (("standard", 0), ("fresh", thoughts))
            )
            rows.append({"M": thoughts, "kind": kind, **compare(none, induced)})
    return rows


def report(rows: list[dict[str, Any]]) -> str:
    """The table of docs/benchmarks.md."""
    head = ["at most M", "kind", "right without", "right with", "difference, 95 %", "repaired, spoiled"]
    head += ["induced", "tokens", "mean peak, tokens"]
    shown = [
        [
            *(row["M"], f"{row['kind']} ({row['tries']})", row["none"], row["right"]),
            f"{100 * row['difference']:+.1f} ({100 * row['interval'][0]:.1f} … {100 * row['interval'][1]:.1f})",
            *(f"{row['repaired']}, {row['spoiled']}", f"{row['thoughts']:.1f}"),
            *(f"{row['tokens']:,.0f}", f"{row['kv_tokens_peak']:.0f}"),
        ]
        for row in rows
    ]
    return table("fresh thoughts", head, shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--sequences", default="64")
    args = parser.parse_args()
    given = ["eval", str(args.tasks), "-m", args.model, "-o", str(FOLDER), "--sequences", args.sequences]
    given += ["--answer-tokens", "32", "--thoughts", ",".join(map(str, (0, *THOUGHTS)))]
    code = run_command([*given, "--strategy", "standard", "--strategy", "fresh"])
    if code:
        sys.exit(code)
    rows = gather(args.tasks)
    write("fresh_thoughts", {"model": args.model, "rows": rows}, "math-verify")
    print(report(rows))


if __name__ == "__main__":
    main()
