"""Shared by all benchmarks: a description of the machine, its bandwidth, a table, a JSON file."""

from __future__ import annotations

import ctypes
import datetime
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> dict[str, Any]:
    """Hardware and versions; packages besides minseek, torch and transformers."""
    import torch

    name = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = {package: version(package) for package in ("minseek", "torch", "transformers", *packages)}
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "processor": name,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **versions,
    }


def _commit() -> str | None:
    """The commit that is measured, "-dirty" if files differ from it other than results; None outside a clone."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/", f":!{RESULTS.name}")
        return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def settle(device: Any = "cpu") -> None:
    """Wait until a GPU has finished its queue."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: Any = "cpu", seconds: float = 1.0) -> float:
    """Bytes per second at which all threads together read a buffer larger than the caches (the best of many passes).

    Of a GPU: bytes read and written per second when it copies such a buffer.
    """
    import torch

    if torch.device(device).type == "cuda":
        source = torch.zeros(2**28, device=device)
        target = torch.empty_like(source)
        return 2 * source.nbytes / _best(lambda: target.copy_(source), device, seconds)

    from minseek.native import native_status

    library = native_status(torch.float32).library
    assert library is not None, "the bandwidth is read by the C library, which could not be built"
    buffer = torch.zeros(2**27)
    address, threads = ctypes.c_void_p(buffer.data_ptr()), ctypes.c_int32(torch.get_num_threads())
    count = ctypes.c_int64(buffer.numel())
    return buffer.nbytes / _best(lambda: library.read_all(address, count, threads), device, seconds)


def _best(action: Callable[[], object], device: Any, seconds: float) -> float:
    """The shortest time of an action that is repeated for so long."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        action()
        settle(device)
        best = min(best, time.perf_counter() - began)
    return best


def median_seconds(action: Callable[[], object], times: int, device: Any = "cpu") -> float:
    """Median over that many calls, after two that are not counted: the second one records, on a GPU."""
    action()
    action()
    taken = []
    for _ in range(times):
        settle(device)
        began = time.perf_counter()
        action()
        settle(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def interval(values: Any) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (t distribution)."""
    import numpy as np
    from scipy import stats

    x = np.asarray(values, dtype=float)
    return float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table under a title."""
    lines = [f"\n{title}\n", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def kept(name: str) -> dict[str, Any]:
    """The figures that were written before."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def write(name: str, figures: dict[str, Any], *packages: str) -> None:
    """Keep the figures with the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({**figures, "machine": machine(*packages)}, indent=1) + "\n")
    print(f"\nwritten to {file}")
