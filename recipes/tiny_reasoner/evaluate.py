"""Accuracy without induced thoughts, by kind and difficulty: ``python -m recipes.tiny_reasoner.evaluate MODEL``.

Held-out problems, the paper's sampling (temperature 0.6, top-p 0.95); ``minseek eval`` measures the effect of more
thoughts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import minseek
from minseek.evaluation.intervals import wilson
from minseek.models.chat.prompts import render_prompt
from minseek.reasoning.answer_extraction import final_answer
from recipes.tiny_reasoner.kinds import KINDS
from recipes.tiny_reasoner.problems import DIFFICULTIES, tasks


def evaluate(name: str, count: int, seed: int) -> dict[str, object]:
    """Solve `count` problems of each difficulty; returns the figures."""
    model = minseek.load(name)
    right: dict[tuple[str, int], list[bool]] = {(kind, d): [] for kind in KINDS for d in DIFFICULTIES}
    tokens, began = 0, time.perf_counter()
    for difficulty in DIFFICULTIES:
        problems = list(tasks("test", count, seed, difficulty))
        done = minseek.generate(
            model,
            [render_prompt(model.tokenizer, task["question"]) for task in problems],
            policy=None,
            max_new_tokens=400,
            sampling=[minseek.Sampling(temperature=0.6, top_p=0.95, seed=seed + i) for i in range(count)],
        )
        for task, one in zip(problems, done, strict=True):
            answer = one.text.rpartition("</think>")[2] if "</think>" in one.text else ""
            right[task["kind"], difficulty].append(final_answer(answer) == task["answer"])
            tokens += len(one.tokens)
    seconds, all_right = time.perf_counter() - began, [r for cell in right.values() for r in cell]
    return {
        "model": name,
        "problems": len(all_right),
        "accuracy": sum(all_right) / len(all_right),
        "interval": wilson(sum(all_right), len(all_right)),
        "cells": {f"{kind} {d}": sum(cell) / len(cell) for (kind, d), cell in right.items()},
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
    }


def table(figures: dict[str, object]) -> str:
    """Markdown table of kinds by difficulty, in percent."""
    cells = figures["cells"]
    assert isinstance(cells, dict)
    lines = ["| kind | " + " | ".join(f"difficulty {d}" for d in DIFFICULTIES) + " |", "|---" * 6 + "|"]
    rows = [[kind, *(f"{100 * cells[f'{kind} {d}']:.0f} %" for d in DIFFICULTIES)] for kind in KINDS]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Print the table and, with ``--output``, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--count", type=int, default=200, help="problems of each difficulty (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="JSON")
    args = parser.parse_args()
    figures = evaluate(args.model, args.count, args.seed)
    low, high = figures["interval"]  # type: ignore[misc]
    print(f"{figures['problems']} held-out problems, {100 * figures['accuracy']:.1f} % right", end=" ")  # type: ignore[operator]
    print(f"(95 %: {100 * low:.1f} to {100 * high:.1f}), {figures['tokens_per_second']:.0f} tokens/s\n")
    print(table(figures))
    if args.output:
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
