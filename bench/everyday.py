"""A run without flags: everyday questions, 20 seeds each, on the embedded models; and the README's six lines.

For each model: seconds (wall clock, and of the processor), empty answers, and how answers ended. Target: under 20 s on
two cores, and never empty. The README's question is answered by its six lines, without a strategy, and without any
induced thought: the six lines should be right at least as often. One run after the other, on one thread with
OMP_NUM_THREADS=1: then the processor's seconds bound those on two idle cores, also if the machine is busy.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from common import RESULTS, kept, machine, table, write

import minseek

MODELS = ("tiny", "smollm2")
QUESTIONS = (
    "How many days are in a week?",
    "What is the capital of France?",
    "Why is the sky blue?",
    "Give me three names for a cat.",
    "How do I boil an egg?",
    "What is 12 times 12?",
)
SEEDS = range(20)
TARGET = 20.0  # seconds
README = "Compute (8+4)*3-6.", "30"
STRATEGIES: dict[str, minseek.Strategy | None] = {
    "MinSeek(thoughts=10), the six lines": minseek.MinSeek(thoughts=10),
    "no strategy given": None,
    "no induced thought": minseek.Standard(),
}


def everyday(model: minseek.Model, seeds: Sequence[int]) -> dict[str, Any]:
    """Every question with every seed."""
    seconds, processor, thinking, answers, empty = [], [], Counter[str](), Counter[str](), 0
    minseek.reason(
        model, QUESTIONS[0], sampling=minseek.Sampling(seed=0)
    )  # the first run builds and reads what is cold
    for seed in seeds:
        for question in QUESTIONS:
            began, busy = time.perf_counter(), time.process_time()
            result = minseek.reason(model, question, sampling=minseek.Sampling(seed=seed))
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - busy)
            empty += not result.answer
            thinking[result.stats.ended_by] += 1
            answers[result.stats.answer_ended_by] += 1
        print(f"{model.name}, seed {seed}: at most {max(processor):.1f} processor seconds", file=sys.stderr, flush=True)
    return {
        "runs": len(seconds),
        "machine": machine(),
        "seconds_max": max(seconds),
        "seconds_median": statistics.median(seconds),
        "processor_seconds_max": max(processor),
        "processor_seconds_median": statistics.median(processor),
        "empty": empty,
        "ended_by": dict(thinking.most_common()),
        "answer_ended_by": dict(answers.most_common()),
    }


def readme(model: minseek.Model, seeds: Sequence[int]) -> dict[str, int]:
    """Seeds with which the README's question is answered right, by strategy."""
    question, right = README
    asked: Callable[..., minseek.Result] = minseek.reason
    return {
        name: sum(
            f"\\boxed{{{right}}}"
            in asked(model, question, strategy=strategy, sampling=minseek.Sampling(seed=seed)).answer
            for seed in seeds
        )
        for name, strategy in STRATEGIES.items()
    }


def report(figures: dict[str, Any]) -> str:
    rows = [
        (
            name,
            of["runs"],
            f"{of['seconds_max']:.1f} ({of['seconds_median']:.1f})",
            f"{of['processor_seconds_max']:.1f} ({of['processor_seconds_median']:.1f})",
            of["empty"],
            ", ".join(f"{why} {count}" for why, count in of["ended_by"].items()),
            ", ".join(f"{why} {count}" for why, count in of["answer_ended_by"].items()),
        )
        for name, of in figures.items()
        if name in MODELS
    ]
    head = (
        "model",
        "runs",
        "seconds: max (median)",
        "processor seconds",
        "empty",
        "thinking ended by",
        "answer ended by",
    )
    return "\n".join(
        [
            table("### Without flags", head, rows),
            table(
                f"### {README[0]}",
                ("strategy", f"right, of {len(SEEDS)} seeds"),
                list(figures.get("readme", {}).items()),
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, and nothing is written")
    parser.add_argument("--only", choices=(*MODELS, "readme"), help="measure one section and keep the others' figures")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="the first N seeds only")
    parser.add_argument("--report", action="store_true", help="print the tables of the kept figures")
    args = parser.parse_args()
    if args.report:
        figures = kept("everyday")
    else:
        warnings.simplefilter("ignore")
        seeds = SEEDS[:1] if args.quick else SEEDS[: args.seeds]
        made: dict[str, Any] = {}
        if args.only in (None, "readme"):
            made["readme"] = readme(minseek.load("tiny", device="cpu"), seeds)
        for name in MODELS:
            if args.only in (None, name):
                made[name] = everyday(minseek.load(name, device="cpu"), seeds)
        figures = (kept("everyday") if args.only and (RESULTS / "everyday.json").exists() else {}) | made
        figures |= {"target_seconds": TARGET}
        if not args.quick:
            write("everyday", figures)
    for key, value in (figures.get("machine") or machine()).items():
        print(f"{key}: {value}")
    print(report(figures))


if __name__ == "__main__":
    main()
