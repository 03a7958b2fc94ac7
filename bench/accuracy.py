"""Accuracy against the number of thoughts, of the tiny reasoning model on problems that were held out.

    python -m recipes.tiny_reasoner.problems --split test --count 500 > tasks.jsonl
    python bench/accuracy.py tasks.jsonl [--only long,rules] [--seeds 0,1,2] [--quick]
    python bench/accuracy.py --report

It runs ``minseek bench`` section by section. A stopped run goes on with the same command: what has finished lies in
build/accuracy/. Sections may run side by side, in processes of their own; ``--report`` gathers what they left into
bench/results/accuracy.json and the picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import table, write

from minseek.cli import main as run_command
from minseek.evaluation.grid import order
from minseek.evaluation.intervals import Bootstrap
from minseek.evaluation.picture import draw
from minseek.evaluation.points import Point, Record, points_of
from minseek.evaluation.records import read_results
from minseek.evaluation.summary import Cell, summarise

ROOT = Path(__file__).parent.parent
GATHERED = ROOT / "build" / "accuracy"
PICTURE = ROOT / "docs" / "pictures" / "accuracy.svg"
PLAIN = "min-seek"
_SHOWN_BY_KIND = (0, 2, 10, 100)


class Section(NamedTuple):
    """What one run of ``minseek bench`` compares."""

    strategies: tuple[str, ...]
    thoughts: str
    flags: tuple[str, ...] = ()


RULES = (
    *("min-seek:rule=longest", "min-seek:rule=latest", "min-seek:rule=likeliest"),
    *("min-seek:keep=2", "min-seek:keep=2,rule=random"),
)
ANSWERS = ("min-seek:vote=true", "min-seek:stop_when_stable=2", "min-seek:stop_when_stable=3")
SECTIONS = {
    "long": Section(
        ("standard", "budget-forcing", PLAIN, "min-seek:rule=random"),
        "0,2,4,6,10,20,50,100,unbounded",
        ("--max-tokens", "10000"),
    ),
    "rules": Section(RULES, "0,2,4,6,10,20"),
    "answers": Section(ANSWERS, "2,4,6,10,20"),
    "beyond": Section(("budget-forcing",), "0,2,4,6,10,20", ("--beyond-context", "--cache-tokens", "2048")),
}
"""In *beyond*, a chain grows on behind the context that the model was trained for."""


def gather(folder: Path) -> dict[str, Any]:
    """The cells of all sections that have run, and how those that use answers on the way fare at equal tokens."""
    sections: dict[str, Any] = {}
    found: dict[str, list[Record]] = {}
    for name in SECTIONS:
        file = folder / name / "results.jsonl"
        if not (folder / name / "summary.json").exists():
            continue
        with file.open() as stream:
            settings = json.loads(stream.readline())["settings"]
        found[name] = list(read_results(file, settings).records.values())
        cells = summarise([*found[name], *(r for r in found.get("long", []) if r.strategy == "standard")])
        own = [cell.as_dict() for cell in cells if name == "long" or cell.strategy != "standard"]
        sections[name] = {"settings": settings, "run": _kept_run(folder / name), "cells": own}
    if "long" in found and "answers" in found:
        sections["equal_tokens"] = equal_tokens(found["long"], found["answers"])
    if "long" in found:
        sections["kinds"] = by_kind(found["long"], folder / "tasks.jsonl")
    return sections


def by_kind(records: list[Record], tasks: Path) -> list[dict[str, Any]]:
    """What plain Min-Seek does to each kind of problem: right tries at some M, and answers repaired and spoiled."""
    kinds = {task["id"]: task["kind"] for task in map(json.loads, tasks.read_text().splitlines())}
    found = points_of(records)
    rows = []
    for kind in [*dict.fromkeys(kinds.values()), "all"]:
        right = {
            m: {k: p.right for k, p in found[PLAIN, m].items() if kind in (kinds[k[0]], "all")} for m in _SHOWN_BY_KIND
        }
        first, last = right[_SHOWN_BY_KIND[0]], right[_SHOWN_BY_KIND[-1]]
        rows.append(
            {
                "kind": kind,
                "tries": len(first),
                "right": {m: sum(own.values()) for m, own in right.items()},
                "repaired": sum(last[k] and not first[k] for k in first),
                "spoiled": sum(first[k] and not last[k] for k in first),
            }
        )
    return rows


def equal_tokens(plain: list[Record], others: list[Record]) -> list[dict[str, Any]]:
    """Accuracy of strategies less that of plain Min-Seek with as many tokens, by interpolation between its M."""
    curve = sorted(((t, p) for (s, t), p in points_of(plain).items() if s == PLAIN), key=lambda pair: order(pair[0]))
    tokens = [_mean(points, "tokens") for _, points in curve]
    rows = []
    for (strategy, thoughts), points in points_of(others).items():
        spent = _mean(points, "tokens")
        at = int(np.clip(np.searchsorted(tokens, spent), 1, len(tokens) - 1))
        share = float(np.clip((spent - tokens[at - 1]) / (tokens[at] - tokens[at - 1]), 0, 1))
        low, high = curve[at - 1][1], curve[at][1]
        keys = sorted(points.keys() & low.keys())
        gains = np.array([points[k].right - (1 - share) * low[k].right - share * high[k].right for k in keys])
        tasks = sorted({task for task, _ in keys})
        gained = np.array([gains[[k[0] == task for k in keys]].sum() for task in tasks])
        tries = np.array([float(sum(k[0] == task for k in keys)) for task in tasks])
        rows.append(
            {
                "strategy": strategy,
                "thoughts": thoughts,
                "tokens": spent,
                "accuracy": _mean(points, "right"),
                "plain": _mean(points, "right") - float(gained.sum() / tries.sum()),
                "difference": float(gained.sum() / tries.sum()),
                "difference_interval": Bootstrap(len(tasks)).ratio(gained, tries),
                "reached": _mean(points, "reached"),
            }
        )
    return rows


def _mean(points: dict[tuple[str, int], Point], name: str) -> float:
    return float(np.mean([float(getattr(point, name)) for point in points.values()]))


def _kept_run(folder: Path) -> Any:
    """What the section's run took; a run that had nothing left to do tells nothing, so the first one's is kept."""
    return json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else None


def report(sections: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    head = ["strategy", "M", "accuracy, 95 %", "less that at M = 0, 95 %", "tokens", "peak cache, MB", "s", "cut short"]
    parts = []
    for name in (name for name in SECTIONS if name in sections):
        rows = []
        for cell in sections[name]["cells"]:
            gained = cell["difference"] is not None and cell["thoughts"] != 0
            less = f"{100 * cell['difference']:+.1f} ({shown(cell['difference_interval'])})" if gained else ""
            rows.append(
                [
                    *(cell["strategy"], cell["thoughts"]),
                    *(f"{100 * cell['accuracy']:.1f} % ({shown(cell['interval'])})", less),
                    *(f"{cell['tokens']:,.0f}", f"{cell['kv_bytes_peak'] / 1e6:.2f}", f"{cell['seconds']:.2f}"),
                    f"{100 * cell['cut_short']:.0f} %",
                ]
            )
        run, title = sections[name]["run"], name
        if run:
            rate = run["generated"] / run["seconds"]
            title += f": {run['generated']:,} tokens in {run['seconds']:.0f} s, {rate:,.0f} tokens/s"
        parts.append(table(title, head, rows))
    if "equal_tokens" in sections:
        rows = [
            [
                *(row["strategy"], row["thoughts"], f"{row['tokens']:,.0f}", f"{row['reached']:.1f}"),
                *(f"{100 * row['accuracy']:.1f} %", f"{100 * row['plain']:.1f} %"),
                f"{100 * row['difference']:+.1f} ({shown(row['difference_interval'])})",
            ]
            for row in sections["equal_tokens"]
        ]
        head = ["strategy", "M", "tokens", "thoughts", "accuracy", "plain, as many tokens", "difference, 95 %"]
        parts.append(table("at equal tokens", head, rows))
    if "kinds" in sections:
        head = ["kind", "tries", *(f"right at M = {m}" for m in _SHOWN_BY_KIND), "repaired", "spoiled"]
        rows = [
            [row["kind"], row["tries"], *row["right"].values(), row["repaired"], row["spoiled"]]
            for row in sections["kinds"]
        ]
        parts.append(table("min-seek by kind", head, rows))
    return "\n\n".join(parts)


def shown(interval: list[float]) -> str:
    """An interval of shares in per cent."""
    return f"{100 * interval[0]:.1f} … {100 * interval[1]:.1f}"


def picture(sections: dict[str, Any]) -> None:
    """The strategies of the long section, and budget forcing beyond the context."""
    beyond = sections.get("beyond", {"cells": []})["cells"]
    fields = [*sections["long"]["cells"], *({**c, "strategy": "budget-forcing, beyond the context"} for c in beyond)]
    cells = [Cell(**{**c, "thoughts": None if c["thoughts"] == "unbounded" else c["thoughts"]}) for c in fields]
    draw(cells, [PICTURE], "tiny on 500 held-out problems")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", help="a file of tasks; --report needs none")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run (%(default)s)")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--sequences", default="64")
    parser.add_argument("--quick", action="store_true", help="20 tasks and few thoughts; nothing is kept")
    parser.add_argument("--report", action="store_true", help="gather what has run: tables, picture, JSON")
    args = parser.parse_args()
    if args.report:
        sections = gather(GATHERED)
        write("accuracy", sections, "matplotlib", "math-verify")
        picture(sections)
        print(report(sections))
        return
    if args.tasks is None:
        parser.error("give a file of tasks")
    folder = GATHERED.with_name("accuracy-quick") if args.quick else GATHERED
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.tasks, folder / "tasks.jsonl")
    for name in args.only.split(","):
        section = SECTIONS[name]
        given = ["bench", args.tasks, "-m", args.model, "-o", str(folder / name), "--seeds", args.seeds]
        given += ["--sequences", args.sequences, "--answer-tokens", "32", *section.flags]
        given += (
            ["--thoughts", "0,2,10,100", "--limit", "20", "--overwrite"]
            if args.quick
            else ["--thoughts", section.thoughts]
        )
        for strategy in section.strategies:
            given += ["--strategy", strategy]
        code = run_command(given)
        if code:
            sys.exit(code)
        run = json.loads((folder / name / "summary.json").read_text())["run"]
        if run is not None:
            (folder / name / "run.json").write_text(json.dumps(run) + "\n")
    if args.quick:
        print(report(gather(folder)))


if __name__ == "__main__":
    main()
