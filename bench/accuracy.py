"""Accuracy against the number of thoughts, of the tiny reasoning model on problems that were held out.

    python -m recipes.tiny_reasoner.problems --split test --count 1000 | tail -n 500 > tasks.jsonl
    python bench/accuracy.py tasks.jsonl [--only long,rules] [--quick]
    python bench/accuracy.py --report

It runs ``minseek eval`` section by section. A stopped run goes on with the same command: finished results are in
build/accuracy/. Sections may run side by side, in processes of their own; ``--report`` gathers what they left into
bench/results/accuracy.json and the picture. The first 500 problems were looked at while the recipe was made, so the
next 500 are used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import table, write

from minseek.cli import main as run_command
from minseek.evaluation.accuracy_cells import EvalCell, summarize
from minseek.evaluation.accuracy_plot import draw_accuracy
from minseek.evaluation.eval_file import read_eval_results
from minseek.evaluation.eval_records import EvalRecord, TrialPoint, points_by_cell
from minseek.evaluation.intervals import Bootstrap, paired_interval
from minseek.evaluation.thought_counts import Thoughts, thoughts_order
from minseek.reasoning.answer_extraction import final_answer

ROOT = Path(__file__).parent.parent
GATHERED = ROOT / "build" / "accuracy"
PICTURE = ROOT / "docs" / "pictures" / "accuracy.svg"
PLAIN = "min-seek"
_SHOWN_BY_KIND = (0, 2, 10, 100)
_SHOWN_AGAINST = (4, 10, 20)


class Section(NamedTuple):
    """Strategies and numbers of thoughts of one run of ``minseek eval``."""

    strategies: tuple[str, ...]
    thoughts: str
    flags: tuple[str, ...] = ()
    seeds: int = 1


RULES = (
    *("min-seek:rule=longest", "min-seek:rule=latest", "min-seek:rule=most-likely"),
    *("min-seek:keep=2", "min-seek:keep=2,rule=random", "min-seek:keep=20"),
)
ANSWERS = ("min-seek:vote=true", "min-seek:stop_when_stable=2", "min-seek:stop_when_stable=3")
SECTIONS = {
    "long": Section(
        ("standard", "budget-forcing", PLAIN), "0,1,2,4,6,10,20,50,100,unbounded", ("--max-tokens", "16384")
    ),
    "control": Section(("min-seek:rule=random",), "0,1,2,4,6,10,20"),
    "rules": Section(RULES, "0,1,2,4,6,10,20"),
    "answers": Section(ANSWERS, "2,4,6,10,20"),
    "beyond": Section(("budget-forcing",), "0,1,2,4,6,10,20", ("--beyond-context", "--cache-tokens", "2048")),
    "samples": Section(("standard",), "0", (), seeds=16),
}
"""In *beyond*, a chain grows beyond the context that the model was trained for; *samples* are independent answers to
the same question, for a vote among them. With keep=20, at M up to 20, all stays but thoughts that were cut off."""
_SAME = ("model", "weights", "dtype", "drawn_by", "temperature", "top_p", "answer_tokens")


def gather(folder: Path) -> dict[str, Any]:
    """The cells of all sections that have run, and how those that use answers on the way fare at equal tokens."""
    sections: dict[str, Any] = {}
    found: dict[str, list[EvalRecord]] = {}
    common: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for name in SECTIONS:
        file = folder / name / "results.jsonl"
        if not (folder / name / "summary.json").exists():
            continue
        with file.open() as stream:
            settings = json.loads(stream.readline())["settings"]
        found[name] = list(read_eval_results(file, settings).records.values())
        about = {key: settings[key] for key in _SAME}
        same = all(digests.setdefault(record.task, record.digest) == record.digest for record in found[name])
        if (common or about) != about or not same:
            raise SystemExit(
                f"{file} is of another model, other settings or other problems than the sections before it"
            )
        common = about
        zero = [] if "standard" in SECTIONS[name].strategies else found.get("long", [])
        cells = summarize([*found[name], *(r for r in zero if r.strategy == "standard")])
        own = [cell.as_dict() for cell in cells if cell.strategy in SECTIONS[name].strategies]
        sections[name] = {"settings": settings, "run": _kept_run(folder / name), "cells": own}
    if "long" in found and "answers" in found:
        sections["equal_tokens"] = equal_tokens(found["long"], points_by_cell(found["answers"]))
        if "samples" in found:
            sections["equal_tokens"] += equal_tokens(found["long"], votes(found["samples"]))
    rules = [*found.get("control", []), *found.get("rules", [])]
    if "long" in found and rules:
        sections["against_shortest"] = against_shortest(found["long"], rules)
    if "long" in found:
        sections["kinds"] = by_kind(found["long"], folder / "tasks.jsonl")
    return sections


def against_shortest(plain: list[EvalRecord], rules: list[EvalRecord]) -> list[dict[str, Any]]:
    """Other rules less the shortest one, at the same M, over the same problems."""
    shortest, rows = points_by_cell(plain), []
    for (strategy, thoughts), points in points_by_cell(rules).items():
        own = shortest[PLAIN, thoughts]
        if thoughts not in _SHOWN_AGAINST or points.keys() != own.keys():
            continue
        gains = np.array([float(points[k].right) - own[k].right for k in sorted(points)])
        interval = paired_interval(gains, np.ones(len(gains)), Bootstrap(len(gains)))
        row = {"strategy": strategy, "thoughts": thoughts, "difference": float(gains.mean()), "interval": interval}
        rows.append(row | {"better": int((gains > 0).sum()), "worse": int((gains < 0).sum())})
    return rows


def by_kind(records: list[EvalRecord], tasks: Path) -> list[dict[str, Any]]:
    """Plain Min-Seek by kind of problem: correct tries at some M, and answers repaired and spoiled."""
    kinds = {task["id"]: task["kind"] for task in map(json.loads, tasks.read_text().splitlines())}
    found = points_by_cell(records)
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


def votes(samples: list[EvalRecord]) -> dict[tuple[str, Thoughts], dict[tuple[str, int], TrialPoint]]:
    """Majority votes among the first 2, 4, 8, … samples of each task (self-consistency, arXiv 2203.11171)."""
    by_task: dict[str, list[TrialPoint]] = {}
    for record in sorted(samples, key=lambda record: record.seed):
        by_task.setdefault(record.task, []).append(record.points[0])
    found: dict[tuple[str, Thoughts], dict[tuple[str, int], TrialPoint]] = {}
    count = 2
    while count <= min(map(len, by_task.values())):
        for task, points in by_task.items():
            extracted = [final_answer(point.answer) for point in points[:count]]
            winner = max(extracted, key=lambda text: (text != "", extracted.count(text), -extracted.index(text)))
            tokens = sum(point.tokens for point in points[:count])
            chosen = replace(points[extracted.index(winner)], tokens=tokens, reached=0)
            found.setdefault((f"a vote of {count} samples", 0), {})[task, 0] = chosen
        count *= 2
    return found


def equal_tokens(
    plain: list[EvalRecord], others: dict[tuple[str, Thoughts], dict[tuple[str, int], TrialPoint]]
) -> list[dict[str, Any]]:
    """Accuracy of strategies less that of a mixture of plain Min-Seek's neighboring M with as many tokens."""
    curve = sorted(
        ((t, p) for (s, t), p in points_by_cell(plain).items() if s == PLAIN), key=lambda pair: thoughts_order(pair[0])
    )
    rows = []
    for (strategy, thoughts), points in others.items():
        keys = sorted(points.keys() & curve[0][1].keys())
        tokens = [_mean(own, "tokens", keys) for _, own in curve]
        spent = _mean(points, "tokens", keys)
        row: dict[str, Any] = {"strategy": strategy, "thoughts": thoughts, "tokens": spent}
        row |= {"accuracy": _mean(points, "right", keys), "reached": _mean(points, "reached", keys)}
        at = int(np.searchsorted(tokens, spent))
        if 0 < at < len(tokens):
            share = (spent - tokens[at - 1]) / (tokens[at] - tokens[at - 1])
            low, high = curve[at - 1][1], curve[at][1]
            gains = np.array([points[k].right - (1 - share) * low[k].right - share * high[k].right for k in keys])
            assert len({task for task, _ in keys}) == len(keys), "one try of each task"
            interval = paired_interval(gains, np.ones(len(keys)), Bootstrap(len(keys)))
            row |= {"plain": row["accuracy"] - float(gains.mean()), "difference": float(gains.mean())}
            row["difference_interval"] = interval
        rows.append(row)
    return rows


def _mean(points: dict[tuple[str, int], TrialPoint], name: str, keys: list[tuple[str, int]]) -> float:
    return float(np.mean([float(getattr(points[key], name)) for key in keys]))


def _kept_run(folder: Path) -> Any:
    """Trials, tokens and seconds of all runs of a section."""
    return json.loads((folder / "run.json").read_text()) if (folder / "run.json").exists() else None


def _add_run(folder: Path) -> None:
    """Add what the latest run took to what those before it did, if there was anything left for it to do."""
    run, kept = json.loads((folder / "summary.json").read_text())["run"], _kept_run(folder) or {}
    if run is not None:
        kept = {name: kept.get(name, 0) + run[name] for name in ("trials", "generated", "seconds")}
        (folder / "run.json").write_text(json.dumps(kept) + "\n")


def report(sections: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    head = ["strategy", "M", "reached", "cut short", "right, 95 %", "less that at M = 0, 95 %", "repaired, spoiled"]
    head += ["answers cut off", "tokens", "mean peak, MB", "highest", "s"]
    parts = []
    for name in (name for name in SECTIONS if name in sections):
        rows = []
        for cell in sections[name]["cells"]:
            gained = cell["difference"] is not None and cell["thoughts"] != 0
            less = f"{100 * cell['difference']:+.1f} ({shown(cell['difference_interval'])})" if gained else ""
            rows.append(
                [
                    *(cell["strategy"], cell["thoughts"], f"{cell['reached']:.1f}", f"{100 * cell['cut_short']:.0f} %"),
                    *(f"{100 * cell['accuracy']:.1f} % ({shown(cell['interval'])})", less),
                    f"{cell['repaired']}, {cell['spoiled']}" if gained else "",
                    *(f"{100 * cell['answers_cut']:.0f} %", f"{cell['tokens']:,.0f}"),
                    *(f"{cell['kv_bytes_peak'] / 1e6:.2f}", f"{cell['kv_bytes_most'] / 1e6:.2f}"),
                    f"{cell['seconds']:.2f}",
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
                *(row["strategy"], row["thoughts"] or "", f"{row['tokens']:,.0f}", f"{row['reached']:.1f}"),
                f"{100 * row['accuracy']:.1f} %",
                f"{100 * row['plain']:.1f} %" if "plain" in row else "no M has so few or so many",
                f"{100 * row['difference']:+.1f} ({shown(row['difference_interval'])})" if "plain" in row else "",
            ]
            for row in sections["equal_tokens"]
        ]
        head = ["strategy", "M", "tokens", "thoughts", "right", "plain, as many tokens", "difference, 95 %"]
        parts.append(table("at equal tokens", head, rows))
    if "against_shortest" in sections:
        rows = [
            [
                *(row["strategy"], row["thoughts"], f"{100 * row['difference']:+.1f} ({shown(row['interval'])})"),
                f"{row['better']}, {row['worse']}",
            ]
            for row in sections["against_shortest"]
        ]
        head = ["strategy", "M", "less the shortest's, 95 %", "right where it is wrong, the other way round"]
        parts.append(table("rules against the shortest, at the same M", head, rows))
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
    """The long chains, and budget forcing beyond the context, in larger slots: its seconds cannot be compared."""
    none: dict[str, Any] = {"cells": []}
    fields = [*sections["long"]["cells"], *sections.get("control", none)["cells"]]
    name = "budget-forcing, beyond the context"
    fields += [{**c, "strategy": name, "seconds": float("nan")} for c in sections.get("beyond", none)["cells"]]
    thoughts = {"unbounded": None}
    cells = [EvalCell(**{**c, "thoughts": thoughts.get(c["thoughts"], c["thoughts"])}) for c in fields]
    draw_accuracy(cells, [PICTURE], f"{sections['long']['settings']['model']} on {cells[0].tasks} held-out problems")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="?", help="a file of tasks; --report needs none")
    parser.add_argument("-m", "--model", default="tiny")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to run (%(default)s)")
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
        given = ["eval", args.tasks, "-m", args.model, "-o", str(folder / name)]
        given += ["--seeds", ",".join(map(str, range(section.seeds)))]
        given += ["--sequences", args.sequences, "--answer-tokens", "32", *section.flags]
        given += (
            ["--thoughts", "0,2,10,100" if name != "samples" else "0", "--limit", "20", "--overwrite"]
            if args.quick
            else ["--thoughts", section.thoughts]
        )
        for strategy in section.strategies:
            given += ["--strategy", strategy]
        code = run_command(given)
        if code:
            sys.exit(code)
        _add_run(folder / name)
    if args.quick:
        print(report(gather(folder)))


if __name__ == "__main__":
    main()
