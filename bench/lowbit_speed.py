"""Speed of rounding and of SGD steps on bfloat16 weights, against memory bandwidth, QPyTorch and torch.optim.

    .venv/bin/python bench/lowbit_speed.py [--quick]

QPyTorch is used if `bash bench/peers/setup.sh qtorch` has put it in its place. What is compared runs in turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from common import bandwidth, table, write

from minseek.lowbit import ROUNDINGS, bf16, e4m3fn, fp16, round_to
from minseek.lowbit.native import library
from minseek.lowbit.optim import PISGD, SGD, AdamW

QTORCH = Path.home() / ".cache/minseek/peers/qtorch"
SMOLLM2 = [(49152, 576), *[(576, 576), (192, 576), (192, 576), (576, 576)] * 30, *[(1536, 576), (1536, 576)] * 30]
SMOLLM2 += [*[(576, 1536)] * 30, *[(576,)] * 61]


def in_turns(actions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, all of them once in every round, after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for counted in range(rounds + 1):
        for name, action in actions.items():
            began = time.perf_counter()
            action()
            if counted:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def peer() -> Any:
    """QPyTorch's `float_quantize`, or None where it is not set up; its C++ is compiled at the first import."""
    if not QTORCH.is_dir():
        return None
    sys.path.append(str(QTORCH))
    from qtorch.quant import float_quantize

    return float_quantize


def rounding(count: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds and share of the bandwidth for each format and mode; 8 bytes a number must move."""
    x = torch.randn(count)
    out = torch.empty_like(x).copy_(x)
    rows = []
    for fmt in (bf16, fp16, e4m3fn):
        actions: dict[str, Callable[[], object]] = {
            mode: lambda fmt=fmt, mode=mode: round_to(x, fmt, mode, out=out) for mode in ROUNDINGS
        }
        actions["nearest-even, new output"] = lambda fmt=fmt: round_to(x, fmt)
        actions["(copy)"] = lambda: out.copy_(x)
        floor = 8 * count / bandwidth()
        for name, seconds in in_turns(actions, rounds).items():
            rows.append({"format": fmt.name, "mode": name, "seconds": seconds, "share": floor / seconds})
    return rows


def against_qtorch(count: int, rounds: int) -> list[dict[str, Any]]:
    """QPyTorch's two modes and ours; its "nearest" is half away from zero."""
    quantize = peer()
    if quantize is None:
        print("QPyTorch is not set up: bash bench/peers/setup.sh qtorch", file=sys.stderr)
        return []
    x = torch.randn(count)
    out = torch.empty_like(x).copy_(x)
    rows = []
    for ours, theirs in (("nearest-away", "nearest"), ("nearest-even", "nearest"), ("stochastic", "stochastic")):
        seconds = in_turns(
            {
                "ours": lambda ours=ours: round_to(x, e4m3fn, ours, out=out),
                "new": lambda ours=ours: round_to(x, e4m3fn, ours),
                "qtorch": lambda theirs=theirs: quantize(x, 4, 3, rounding=theirs),
            },
            rounds,
        )
        rows.append({"mode": ours, "theirs": theirs, **seconds, "ratio": seconds["qtorch"] / seconds["ours"]})
        rows[-1]["ratio_new"] = seconds["qtorch"] / seconds["new"]
    return rows


def steps(rounds: int) -> list[dict[str, Any]]:
    """An optimizer step on SmolLM2-135M's parameters; bytes a parameter that must move."""

    def params(dtype: torch.dtype) -> list[torch.nn.Parameter]:
        made = [torch.nn.Parameter(torch.randn(shape).mul_(0.02).to(dtype)) for shape in SMOLLM2]
        for p in made:
            p.grad = torch.randn(p.shape).to(dtype)
        return made

    wide, narrow = params(torch.float32), params(torch.bfloat16)
    count = sum(p.numel() for p in narrow)
    perturbed = PISGD(narrow, lr=1e-6, radius=0.1, shape="box")
    optimizers: dict[str, tuple[int, Callable[[], object]]] = {
        "torch SGD(foreach), float32": (12, torch.optim.SGD(wide, lr=1e-6, foreach=True).step),
        "torch SGD(foreach), bfloat16 (nearest)": (6, torch.optim.SGD(narrow, lr=1e-6, foreach=True).step),
        "SGD, bf16 stochastic": (6, SGD(narrow, lr=1e-6).step),
        "SGD, bf16 nearest-even": (6, SGD(narrow, lr=1e-6, rounding="nearest-even").step),
        "SGD, float32": (12, SGD(wide, lr=1e-6).step),
        "torch SGD(foreach) with momentum, float32": (20, torch.optim.SGD(wide, 1e-6, 0.9, foreach=True).step),
        "SGD with momentum, bf16 stochastic": (10, SGD(narrow, 1e-6, 0.9).step),
        "torch AdamW(foreach), float32": (28, torch.optim.AdamW(wide, 1e-6, foreach=True).step),
        "AdamW, bf16 stochastic": (14, AdamW(narrow, 1e-6).step),
        "PISGD (box), bf16 stochastic, without the gradient": (14, lambda: perturbed.step(lambda: 0.0)),
    }
    floor = 1 / bandwidth()
    taken = in_turns({name: action for name, (_, action) in optimizers.items()}, rounds)
    base = taken["torch SGD(foreach), float32"]
    return [
        {
            "step": name,
            "seconds": taken[name],
            "ratio": taken[name] / base,
            "bytes": bytes_each,
            "share": bytes_each * count * floor / taken[name],
        }
        for name, (bytes_each, _) in optimizers.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it runs at all")
    quick = parser.parse_args().quick
    assert library() is not None, "the kernels in C could not be built"
    torch.manual_seed(0)
    count, rounds = (2**20, 2) if quick else (2**24, 15)
    rows = rounding(count, rounds)
    head = ("format", "rounding", "ms", "share of the read bandwidth")
    cells = [(r["format"], r["mode"], f"{r['seconds'] * 1e3:.1f}", f"{r['share']:.0%}") for r in rows]
    print(table(f"{count / 2**20:.0f} M float32 rounded into a given tensor; 8 bytes a number", head, cells))
    duel = against_qtorch(count, 2 if quick else 5)
    cells = [
        (
            f"e4m3, {r['mode']}",
            f"{r['ours'] * 1e3:.1f}",
            f"{r['new'] * 1e3:.1f}",
            f"{r['qtorch'] * 1e3:.0f}",
            f"{r['ratio']:.1f}x / {r['ratio_new']:.1f}x",
        )
        for r in duel
    ]
    versions = [d.version for d in distributions(path=[str(QTORCH)]) if d.name == "qtorch"]
    print(table(f"Compared with QPyTorch {versions}", ("", "ms", "ms, new output", "QPyTorch, ms", "ratio"), cells))
    moves = [] if quick else steps(7)
    cells = [
        (r["step"], f"{r['seconds'] * 1e3:.0f}", f"{r['ratio']:.2f}", r["bytes"], f"{r['share']:.0%}") for r in moves
    ]
    head = (
        "a step on SmolLM2-135M's parameters",
        "ms",
        "of torch's float32 SGD",
        "bytes a parameter",
        "share of bandwidth",
    )
    print(table("Optimizers", head, cells))
    if not quick:
        write("lowbit_speed", {"rounding": rows, "qtorch": duel, "qtorch_version": versions, "steps": moves})


if __name__ == "__main__":
    main()
