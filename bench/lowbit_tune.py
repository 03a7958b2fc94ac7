"""Tuning SmolLM2-135M on the reference manual of Python: held-out loss against tokens, and memory, for each optimizer.

    .venv/bin/python bench/lowbit_tune.py [--quick] [--only NAME ...]

The text is what Python carries for `help()` (pydoc_data.topics, the language reference as plain text, 466 KB). Every
run is `minseek tune` in a process of its own, with a memory budget so that freed memory goes back to the system; its
figures are those of its log.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import RESULTS, kept, table, write

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "lowbit_tune.svg"
RATE = "0.02"  # of SGD; in first trials 0.1 raised the loss and 0.3 made it diverge
SHARED = (
    *("--max-length", "512", "--batch-size", "2", "--gradient-accumulation-steps", "1"),
    *("--eval-share", "0.04", "--memory-budget", "5GB"),
)
RUNS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "SGD, float32": (("--format", "float32", "--lr", RATE), (0, 1)),
    "SGD, bf16 stochastic": (("--lr", RATE), (0, 1)),
    "SGD, bf16 nearest": (("--rounding", "nearest-even", "--lr", RATE), (0,)),
    "PISGD, bf16 stochastic": (("--optimizer", "pisgd", "--radius", "0.5", "--lr", RATE), (0,)),
    "AdamW, float32": (("--format", "float32", "--optimizer", "adamw", "--lr", "3e-5"), (0,)),
}


def text() -> str:
    """The manual, topics in the order of their names."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def run(name: str, seed: int, steps: int, data: Path) -> dict[str, Any]:
    """One run: what its log and its plan say."""
    flags = [
        *SHARED,
        *RUNS[name][0],
        "--steps",
        str(steps),
        "--eval-every",
        str(max(1, steps // 4)),
        "--seed",
        str(seed),
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "tuned"
        command = [sys.executable, "-m", "minseek", "tune", "-m", "smollm2", str(data), *flags]
        plan = json.loads(
            subprocess.run([*command, "--plan", "--json"], capture_output=True, text=True, check=True).stdout
        )
        subprocess.run([*command, "-o", str(out)], check=True)
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    held = [(entry["tokens"], entry["held_out_loss"]) for entry in log if entry["event"] == "held-out"]
    taken = [entry["seconds"] for entry in log if entry["event"] == "step"]
    end = next(entry for entry in log if entry["event"] == "end")
    return {
        "run": name,
        "seed": seed,
        "held_out": held,
        "peak": end["memory"],
        "planned": end["planned"],
        "plan": plan,
        "step_seconds": statistics.median(b - a for a, b in pairwise(taken)) if taken[1:] else None,
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip(),
    }


def picture(runs: list[dict[str, Any]]) -> None:
    """Held-out loss against tokens."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    colors = dict(zip(RUNS, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    for one in runs:
        tokens, losses = zip(*one["held_out"], strict=True)
        axes.plot(tokens, losses, ".-", color=colors[one["run"]], label=one["run"] if one["seed"] == 0 else None)
    axes.set(xlabel="tokens learned from", ylabel="held-out loss, nats a token")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, bbox_inches="tight", facecolor="white")


def report(runs: list[dict[str, Any]]) -> str:
    """The table; with two seeds the range."""
    rows = []
    for name in RUNS:
        own = [one for one in runs if one["run"] == name]
        if not own:
            continue
        ends = [one["held_out"][-1][1] for one in own]
        plan, parameters = own[0]["plan"], own[0]["plan"]["parameters"]
        fixed = plan["weight_bytes"] + plan["gradient_bytes"] + plan["state_bytes"]
        extra = plan["activation_bytes"]
        measured = max(one["peak"] for one in own)
        rows.append(
            (
                name,
                f"{own[0]['held_out'][0][1]:.4f}",
                " / ".join(f"{loss:.4f}" for loss in ends),
                f"{fixed / parameters:.2f}",
                f"{(measured - extra) / parameters:.2f}",
                f"{measured / 1e9:.2f} GB",
                f"{own[0]['planned'] / 1e9:.2f} GB",
                f"{own[0]['step_seconds']:.1f} s" if own[0]["step_seconds"] else "",
            )
        )
    head = ("run", "loss before", "loss after (seeds)", "bytes a parameter, planned", "measured, without activations")
    return table("SmolLM2-135M, held-out loss in nats a token", (*head, "peak", "plan", "a step of 1,024 tokens"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two steps each: whether it runs at all")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), help="repeat these runs only")
    args = parser.parse_args()
    runs: list[dict[str, Any]] = []
    if args.only and (RESULTS / "lowbit_tune.json").exists():
        runs = [one for one in kept("lowbit_tune")["runs"] if one["run"] not in args.only]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "python.txt"
        data.write_text(text())
        for name, (_, seeds) in RUNS.items():
            for seed in seeds if name in (args.only or RUNS) else ():
                runs.append(run(name, seed, 2 if args.quick else 24, data))
                print(name, seed, runs[-1]["held_out"], file=sys.stderr)
                if not args.quick:
                    write("lowbit_tune", {"rate": RATE, "runs": runs})
    print(report(runs))
    by_seed = {(one["run"], one["seed"]): one["held_out"][-1][1] for one in runs}
    pairs = [(by_seed.get(("SGD, bf16 stochastic", s)), by_seed.get(("SGD, float32", s))) for s in (0, 1)]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    if gaps:
        seeds = [by_seed[("SGD, float32", s)] for s in (0, 1) if ("SGD, float32", s) in by_seed]
        spread = max(seeds) - min(seeds) if len(seeds) > 1 else math.nan
        print(f"\nbf16 stochastic minus float32, by seed: {gaps}; between seeds of float32: {spread:.4f}")
    if not args.quick:
        picture(runs)


if __name__ == "__main__":
    main()
