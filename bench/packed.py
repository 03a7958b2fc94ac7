"""A GGUF file as it is, in minseek and in llama.cpp: prefill and decoding of 1, 8 and 16 sequences, in turns.

    python bench/packed.py [FILE.gguf ...] [--rounds N] [--report]

Run it with nothing else running. Without files it takes SmolLM2's. `bench/peers/setup.sh llama` installs llama.cpp;
without it only our own figures are measured. minseek runs at every instruction set of the processor from AVX2 on;
llama.cpp as its wheel was built. The cache holds every token in both, so nothing is evicted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, kept, machine, table, write
from isa import available_levels
from throughput import ours, prompts_of, run_peer

import minseek
from minseek.models import alias_file

PROMPT, NEW, BATCHES = 400, 64, (1, 8, 16)
LIMIT = 900  # seconds for one run of llama.cpp


def run_ours(file: str, batch: int) -> dict[str, Any]:
    """One batch in this process."""
    model = minseek.load(file, device="cpu")
    budget = 2 * batch * (PROMPT + NEW) * model.token_bytes()
    prompts = prompts_of(model, batch, PROMPT)
    ours(model, [prompts[0][:64]], 4, budget)
    return ours(model, prompts, NEW, budget) | {"weight_bytes": model.weight_bytes}


def in_process(level: str, file: str, batch: int) -> dict[str, Any]:
    """One batch at an instruction set, in a process of its own."""
    command = [sys.executable, __file__, "--inside", str(batch), file]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MINSEEK_ISA": level}, check=False)
    if done.returncode:
        raise SystemExit(f"minseek at {level} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_llama(file: str, batch: int) -> dict[str, Any] | None:
    """One batch in llama.cpp; None if llama.cpp is not installed."""
    model = minseek.load(file, device="cpu")
    config = model.weights.config
    sizes = {"num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads}
    sizes |= {"num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(sizes))
        job = {"model": folder, "gguf": file, "prompts": prompts_of(model, batch, PROMPT), "max_new_tokens": NEW}
        job |= {"kv_budget": 2 * batch * (PROMPT + 256) * model.token_bytes(), "threads": torch.get_num_threads()}
        return run_peer("llama.cpp", job, LIMIT)


def measure(file: str, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Runs of every engine and batch, in turns; the fastest round counts."""
    levels = [level for level in available_levels() if level != "portable"]
    best: dict[str, list[dict[str, Any]]] = {}
    for batch in BATCHES:
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for level in levels:
                runs.setdefault(f"minseek, {level}", []).append(in_process(level, file, batch))
            if (found := run_llama(file, batch)) is not None:
                runs.setdefault("llama.cpp", []).append(found)
        for name, tried in runs.items():
            fastest = {key: min(run[key] for run in tried) for key in ("prefill_seconds", "decode_seconds")}
            fastest["peak_rss_mb"] = max(run["peak_rss_mb"] for run in tried)
            best.setdefault(name, []).append({"batch": batch, **fastest})
            print(Path(file).name, name, best[name][-1], flush=True)
    return best


def report(figures: dict[str, Any]) -> str:
    """Prefill in tokens a second and milliseconds of a step, for each number of sequences."""
    rows = []
    for file, engines in figures["files"].items():
        for name, runs in engines.items():
            cells = [f"{r['batch'] * PROMPT / r['prefill_seconds']:.0f}" for r in runs]
            cells += [f"{1e3 * r['decode_seconds'] / (NEW - 1):.1f}" for r in runs]
            rows.append([file, name, *cells, f"{max(r['peak_rss_mb'] for r in runs):.0f}"])
    about = figures.get("machine", machine())
    title = f"{about['processor']}, {about['threads']} threads, {about['date']}, {about['commit']}"
    head = ["file", "engine", *(f"prefill {b}" for b in BATCHES), *(f"a step, ms, {b}" for b in BATCHES), "peak MB"]
    return table(title, head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="GGUF files (default: SmolLM2's)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--report", action="store_true", help="print the table of the last run")
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.inside:
        print(json.dumps(run_ours(args.files[0], args.inside)))
        return
    if not args.report:
        figures = kept("packed") if (RESULTS / "packed.json").exists() else {"files": {}}
        for file in args.files or [str(alias_file("smollm2"))]:
            figures["files"][Path(file).name] = measure(file, args.rounds)
        write("packed", figures)
    print(report(kept("packed")))


if __name__ == "__main__":
    main()
