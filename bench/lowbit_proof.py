"""Proof of `round_to`: ten million float32 numbers for every named format and mode, equal to gfloat or not.

    .venv/bin/python bench/lowbit_proof.py [--numbers N]

The numbers are random patterns of 32 bits and, once, all adversarial ones: neighbors of every grid midpoint and of
every power of two. The tests do the same with a fortieth of the random ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import table, write

sys.path.insert(0, str(Path(__file__).parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=10_000_000, help="random ones for each format and mode")
    numbers = parser.parse_args().numbers
    from minseek.lowbit import FORMATS, round_to
    from tests.lowbit.test_rounding import DETERMINISTIC, adversarial_floats, all_halves, from_gfloat, random_floats

    rows: list[dict[str, Any]] = []
    for name, fmt in FORMATS.items():
        began, compared, wrong = time.perf_counter(), 0, 0
        for index, mode in enumerate(DETERMINISTIC):
            fixed = torch.cat((adversarial_floats(fmt), all_halves(torch.bfloat16), all_halves(torch.float16)))
            parts = [fixed, *(random_floats(10**6, seed=1000 * index + i) for i in range(numbers // 10**6))]
            for x in parts:
                got, expected = round_to(x, fmt, mode), from_gfloat(name, x, mode)
                same = (got == expected) & (got.signbit() == expected.signbit()) | got.isnan() & expected.isnan()
                compared, wrong = compared + x.numel(), wrong + int((~same).sum())
        rows.append({"format": name, "compared": compared, "wrong": wrong})
        print(f"{name}: {compared:,} compared in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    cells = [(r["format"], f"{r['compared']:,}", r["wrong"]) for r in rows]
    print(table("Five modes against gfloat", ("format", "numbers rounded", "unlike gfloat"), cells))
    write("lowbit_proof", {"rows": rows}, "gfloat")
    sys.exit(any(r["wrong"] for r in rows))


if __name__ == "__main__":
    main()
