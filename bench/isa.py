"""Every method at every instruction set that the machine has, beside scikit-learn and PyTorch.

    python bench/isa.py [--levels avx2 …] [--rows kmeans fits …] [--report]

Each level runs in a process of its own, with MINSEEK_ISA; a row's rival runs in turns with it. Results are kept for
every kind of processor. Run it with nothing else running; it takes about ten minutes a level.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import lowbit_speed
import torch
from cluster_speed import blobs, first_rows, in_turns, ours, theirs
from common import RESULTS, bandwidth, kept, machine, median_seconds, table, write

from minseek.native import available_levels, instruction_set

PACKAGES = ("scikit-learn", "numpy")
ROUNDED = 20_000_000
Row = dict[str, Any]  # title, value in its unit, and the rival's or the floor's


def duel(title: str, x: Any, clusters: int, rounds: int = 3, **options: Any) -> Row:
    """Seconds of a fit, and of scikit-learn's from the same start."""
    start = first_rows(x, clusters)
    limit = {"limit": options["limit"]} if "limit" in options else {}
    sk, we = in_turns(rounds, lambda: theirs(x, start, **limit), lambda: ours(x, start, **options))
    return row(title, we["seconds"], "s", sk["seconds"], "scikit-learn")


def row(title: str, value: float, unit: str, other: float | None = None, name: str = "") -> Row:
    return {"title": title, "value": value, "unit": unit, "other": other, "name": name}


def kmeans() -> list[Row]:
    x = blobs(100_000, 32, 200)
    title = "k-means, 100,000 x 32, K = 64, 11 passes, "
    wide = duel(title + "float64", x.astype("float64"), 64, limit=11, algorithm="lloyd")
    return [wide, duel(title + "float32", x, 64, limit=11, algorithm="lloyd")]


def fits() -> list[Row]:
    shapes = ((20_000, 16, 32), (100_000, 32, 64), (10_000, 784, 10), (4_424, 36, 50))
    return [duel(f"whole fit with certificate, {n:,} x {d}, K = {k}", blobs(n, d, 3 * k), k) for n, d, k in shapes]


def one_pass() -> list[Row]:
    return [duel("fit of one pass, 1,000,000 x 32, K = 256, float32", blobs(10**6, 32, 1000), 256, 1, limit=1)]


def rounding() -> list[Row]:
    from minseek.lowbit import bf16, e4m3fn, round_to

    x = torch.randn(ROUNDED)
    out = torch.empty_like(x).copy_(x)
    actions: dict[str, Callable[[], object]] = {"copy": lambda: out.copy_(x)}
    for fmt, mode in ((e4m3fn, "nearest-even"), (bf16, "nearest-even"), (bf16, "stochastic")):
        title = f"round_to, 20M floats, {fmt.name}, {mode}"
        actions[title] = lambda fmt=fmt, mode=mode: round_to(x, fmt, mode, out=out)
    return beside("copy", "a copy", lowbit_speed.in_turns(actions, 9))


def sgd() -> list[Row]:
    from minseek.lowbit.optim import SGD

    parameter = torch.nn.Parameter(torch.randn(ROUNDED).bfloat16())
    parameter.grad = torch.randn(ROUNDED).bfloat16()
    actions: dict[str, Callable[[], object]] = {"torch": torch.optim.SGD([parameter], 1e-6).step}
    for mode in ("nearest-even", "stochastic"):
        actions[f"SGD step, 20M bf16, {mode}"] = SGD([parameter], 1e-6, rounding=mode).step
    return beside("torch", "torch", lowbit_speed.in_turns(actions, 9))


def beside(rival: str, name: str, taken: dict[str, float]) -> list[Row]:
    """Rows of everything but the rival."""
    other = 1e3 * taken.pop(rival)
    return [row(title, 1e3 * seconds, "ms", other, name) for title, seconds in taken.items()]


def decoding() -> list[Row]:
    """Steps of a batch with caps, and of one sequence without; `other` is the time to read all bytes once."""
    from throughput import prefill, step

    import minseek

    model = minseek.load("smollm2", device="cpu", dtype="bfloat16", weights="dense")
    found = []
    for r in step(model, ((1, 512), (8, 512), (16, 512)))["rows"]:
        title = f"decoding step, bf16 SmolLM2, batch {r['batch']}, cap 512"
        found.append(row(title, 1e3 * r["seconds"], "ms", 1e3 * r["share"] * r["seconds"], "the bytes"))
    for r in prefill(model)["rows"]:
        rate, bound = r["tokens"] / r["seconds"], r["tokens"] / r["operations"] * r["gemm_rate"]
        found.append(row(f"prefill with evictions, batch {r['batch']}", rate, "tokens/s", bound, "torch's products"))
    session = model.session()
    session.forward(list(range(100, 164)))
    cached = iter(range(200, 600))
    taken = median_seconds(lambda: session.forward([next(cached)]), 380)
    floor = (model.weight_bytes + 257 * model.token_bytes()) / bandwidth()
    found.append(row("one sequence, a token at 64 to 446 cached", 1e3 * taken, "ms", 1e3 * floor, "the bytes"))
    return found


ROWS: dict[str, Callable[[], list[Row]]] = {
    "kmeans": kmeans,
    "fits": fits,
    "one_pass": one_pass,
    "rounding": rounding,
    "sgd": sgd,
    "decoding": decoding,
}


def results_name() -> str:
    """Name of the results of this kind of processor."""
    return "isa_" + re.sub(r"[^a-z0-9]+", "-", machine()["processor"].lower() + " " + available_levels()[-1]).strip("-")


def measure(level: str, name: str) -> list[Row]:
    """Rows of one level, in a process of its own."""
    command = [sys.executable, __file__, "--inside", name]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MINSEEK_ISA": level}, check=False)
    if done.returncode:
        raise SystemExit(f"{name} at {level} failed: {done.stderr[-2000:]}")
    found: list[Row] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(figures: dict[str, Any]) -> str:
    """One line a row, one column a level: the value, and its ratio to the rival's."""
    levels = list(figures["levels"])
    cells: dict[str, dict[str, str]] = {}
    for level, sections in figures["levels"].items():
        for r in (r for section in sections.values() for r in section):
            ratio = f" ({r['value'] / r['other']:.2f} of {r['name']})" if r["other"] else ""
            cells.setdefault(r["title"], {})[level] = f"{r['value']:.3g} {r['unit']}{ratio}"
    lines = [[title, *(found.get(level, "-") for level in levels)] for title, found in cells.items()]
    about = figures.get("machine", {})
    title = f"{about.get('processor')}, {about.get('threads')} threads, {about.get('date')}, {about.get('commit')}"
    return table(title, ("", *levels), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--levels", nargs="+", choices=available_levels(), default=available_levels()[1:] or ["portable"]
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--report", action="store_true", help="print the table of the last run on such a processor")
    parser.add_argument("--inside", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.inside:
        assert instruction_set().reason.startswith("MINSEEK_ISA=")
        print(json.dumps(ROWS[args.inside]()))
        return
    name = results_name()
    figures = kept(name) if (RESULTS / f"{name}.json").exists() else {"levels": {}}
    if not args.report:
        for row_name in args.rows:
            for level in args.levels:
                figures["levels"].setdefault(level, {})[row_name] = measure(level, row_name)
                write(name, figures, *PACKAGES)
        figures = kept(name)
    print(report(figures))


if __name__ == "__main__":
    main()
