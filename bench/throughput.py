"""Batches of SmolLM2-135M in a fixed KV budget: end to end compared with other engines, and shares of the roofline.

    python bench/throughput.py [--only step|prefill|length|peers] [--rounds N] [--device D] [--results NAME] [--report]

Run it with nothing else running. The other engines are optional: `bench/peers/setup.sh NAME` installs one into an
environment of its own; those that are not there are left out, and the table says so. `--results` keeps the figures of
another machine next to the existing ones. On a GPU a decoding step is measured with recorded passes and without, and
no other engine is run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, bandwidth, kept, machine, median_seconds, settle, table, write
from needles import text

import minseek
from minseek.cache import Slot
from minseek.decode import Sampling
from minseek.engine import Engine, Generation
from minseek.models import alias_file
from minseek.models.forward.chunk import SequenceChunk
from minseek.models.loading.gguf.transformers_model import gguf_tokenizer, gguf_transformers_model
from minseek.native import cache_folder

BUDGET = 192_000_000
SCENARIOS = {  # prompts, their tokens, new tokens
    "16 prompts of 4,000 tokens, 64 new": (16, 4000, 64),
    "16 prompts of 4,000 tokens, 512 new": (16, 4000, 512),
    "8 prompts of 8,000 tokens, 64 new": (8, 8000, 64),
}
PEERS: dict[str, tuple[str, str | None, dict[str, Any]]] = {  # script, environment (None: this one), more of the job
    "transformers": ("transformers_generate.py", None, {}),
    "transformers, float32": ("transformers_generate.py", None, {"dtype": "float32"}),
    "llama.cpp": ("llama_cpp_batch.py", "llama", {}),
    "llama.cpp, float32 weights": ("llama_cpp_batch.py", "llama", {"gguf_dtype": "f32"}),
    "vLLM": ("vllm_cpu.py", "vllm", {}),
    "vLLM, one at a time": ("vllm_cpu.py", "vllm", {"settings": {"max_num_seqs": 1}}),
    "vLLM, float32": ("vllm_cpu.py", "vllm", {"dtype": "float32"}),
}
USUAL = ("transformers", "llama.cpp", "vLLM", "vLLM, one at a time")  # float32 is for processors without bfloat16
ONLY_LONG = "vLLM, one at a time"  # where two sequences do not quite fit vLLM preempts; elsewhere it is the same
STEP_ONE_BY_ONE = "step, one operation at a time"
PATIENCE = 8  # a peer that takes longer than this multiple of our own run is stopped, and the table says so


def prompts_of(model: minseek.Model, count: int, length: int) -> list[list[int]]:
    """Different stretches of real text."""
    ids = model.encode(text("python")[: 8 * (length + 200 * count)])
    return [ids[200 * i : 200 * i + length] for i in range(count)]


def ours(model: minseek.Model, prompts: list[list[int]], new: int, budget: int = BUDGET) -> dict[str, Any]:
    """One batch, as `minseek.generate` runs it with a plan for this budget."""
    plan = minseek.plan(model, kv_budget=budget, sequences=len(prompts), lengths=[len(p) + new for p in prompts])
    greedy = Sampling(temperature=0)
    jobs = [Generation(model, p, max_new_tokens=new, sampling=greedy, ignore_eos=True) for p in prompts]
    engine = Engine(model, plan)
    began = time.perf_counter()
    for _ in engine.run(jobs):
        pass
    seconds = time.perf_counter() - began
    p = engine.progress
    return {
        "seconds": seconds,
        "batch": plan.slots,
        "cap": plan.cap,
        "kv_bytes": plan.kv_bytes,
        "prefill_seconds": p.prefill_seconds,
        "decode_seconds": p.decode_seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def run_peer(name: str, job: dict[str, Any], limit: float) -> dict[str, Any] | None:
    """One batch in another engine, in a process of its own; None if it is not installed."""
    script, environment, more = PEERS[name]
    python = Path(sys.executable) if environment is None else cache_folder() / "peers" / environment / "bin" / "python"
    if not python.exists():
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job | more, file)
        file.flush()
        command = [str(python), str(Path(__file__).parent / "peers" / script), file.name]
        began = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"seconds": time.perf_counter() - began, "stopped": True, "batch": ""}
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    found.pop("tokens", None)
    return found


def dense_folder(file: Path, dtype: torch.dtype) -> Path:
    """Directory with the dense model of a GGUF file, made once."""
    folder = cache_folder() / "bench" / f"{file.stem}-{str(dtype).removeprefix('torch.')}"
    if not (folder / "tokenizer.json").is_file():
        gguf_transformers_model(file, dtype).save_pretrained(folder)
        gguf_tokenizer(file).save_pretrained(folder)
    return folder


def peers(
    model: minseek.Model, rounds: int, only: list[str], jobs: list[int], figures: dict[str, Any], kept_as: str
) -> None:
    """End to end, in turns: ours, each peer, ours again …; the best of the rounds counts for each.

    Other jobs keep the figures they have.
    """
    file = alias_file("smollm2")
    folder = str(dense_folder(file, model.placement.dtype))  # for peers that read no GGUF files
    results = figures.setdefault("peers", {})
    for title, (count, length, new) in [[*SCENARIOS.items()][j] for j in jobs]:
        prompts = prompts_of(model, count, length)
        job = {"model": folder, "gguf": str(file), "prompts": prompts, "max_new_tokens": new, "kv_budget": BUDGET}
        job |= {"threads": torch.get_num_threads(), "dtype": "bfloat16"}
        runs: dict[str, list[dict[str, Any]]] = {}
        results[title] = {"tokens": count * (length + new), "new": count * new, "runs": runs}
        for _ in range(rounds):
            for name in ("minseek", *only):
                if (name == ONLY_LONG and new <= 64) or runs.get(name, [{}])[0].get("stopped"):
                    continue
                wide = 2 if name != "minseek" and PEERS[name][2].get("dtype") == "float32" else 1
                if (length + new) * wide * model.token_bytes() > BUDGET:
                    print(f"{title}: {name} can't hold one sequence in the budget", flush=True)
                    continue
                if name == "minseek":
                    found = ours(model, prompts, new)
                else:
                    found = run_peer(name, job, PATIENCE * runs["minseek"][-1]["seconds"] + 120)  # and it must load
                if found is not None:
                    runs.setdefault(name, []).append(found)
                    print(f"{title}: {name} {found['seconds']:.1f} s", flush=True)
                    write(kept_as, figures)  # an hour's run is not lost with its last minute


CASES = ((1, 512), (8, 512), (16, 512), (32, 512), (8, 2048))  # sequences and cap


def step(model: minseek.Model, cases: Sequence[tuple[int, int]] = CASES) -> dict[str, Any]:
    """A decoding step with slots half way between two evictions, against the time to read weights and live cache."""
    rows, device = [], model.placement.device
    for batch, cap in cases:
        plan = minseek.plan(model, kv_budget=10**10, cap=cap, sequences=batch)
        slots = model.make_slot_pool(plan.slot, batch).slots
        assert plan.policy is not None
        for slot in slots:
            while not all(group.num_survivors for group in slot.layer_groups):  # until each layer has reached its cap
                slot.advance(slot.free_tokens)
                plan.policy.evict(slot)
            slot.advance(plan.block // 2)
        lengths, seen = [group.length for group in slots[0].layer_groups], slots[0].num_tokens

        def once(slots: list[Slot] = slots, lengths: list[int] = lengths, seen: int = seen) -> None:
            for slot in slots:
                slot.num_tokens = slot.position = seen
                assert slot.observer is not None
                slot.observer.num_since_eviction = slot.memory.shape.block // 2
                for group, length in zip(slot.layer_groups, lengths, strict=True):
                    group.length = length
            model.forward_batch([SequenceChunk([7], slot, 1) for slot in slots])

        rate = bandwidth(device)
        seconds = median_seconds(once, 40, device)
        live = batch * sum(slots[0].lengths) * model.token_bytes() // model.num_layers
        floor = (model.weight_bytes + live) / rate
        rows.append({"batch": batch, "cap": cap, "seconds": seconds, "live_bytes": live, "bandwidth": rate})
        rows[-1]["share"] = floor / seconds
        print(rows[-1], flush=True)
    return {"rows": rows, "weight_bytes": model.weight_bytes}


def gemm_rate(device: torch.device) -> float:
    """Operations a second in PyTorch's product of two square matrices: the faster dtype's, the best of many."""
    best, size = float("inf"), 2048 if device.type == "cpu" else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        for _ in range(20):
            settle(device)
            began = time.perf_counter()
            torch.mm(a, b.t())
            settle(device)
            best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def prefill(model: minseek.Model) -> dict[str, Any]:
    """Reading prompts in full slots, eviction included, against the operations that must be done."""
    rows = []
    for batch in (1, 4, 16):
        prompts = prompts_of(model, batch, 512 + 128 * 8)
        plan = minseek.plan(model, kv_budget=10**10, cap=512, sequences=batch)
        jobs = [Generation(model, p, max_new_tokens=1, sampling=Sampling(temperature=0)) for p in prompts]
        rate = gemm_rate(model.placement.device)
        began = time.perf_counter()
        for _ in Engine(model, plan).run(jobs):
            pass
        seconds = time.perf_counter() - began
        operations = sum(operations_of(model, plan, len(p)) for p in prompts)
        tokens = sum(map(len, prompts))
        rows.append({"batch": batch, "tokens": tokens, "seconds": seconds, "operations": operations, "gemm_rate": rate})
        rows[-1]["share"] = operations / seconds / rate
        print(rows[-1], flush=True)
    return {"rows": rows}


def operations_of(model: minseek.Model, plan: minseek.BatchPlan, tokens: int) -> int:
    """Multiplications and additions to read a prompt: the layers' matrices, and attention over what the slot holds."""
    weights, shape = model.weights, model.weights.config
    layer = weights.layers[0]
    matrices = sum(w.numel() for w in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down))
    pairs = 0
    for cap, layers in plan.slot.layer_groups:
        held, full = 0, plan.slot.capacity
        for token in range(tokens):
            if held == full or token == plan.slot.capacity:
                held, full = min(held, cap), cap + plan.block
            held += 1
            pairs += held * len(layers)
    return 2 * shape.num_layers * tokens * matrices + 4 * pairs * shape.num_heads * shape.head_dim


def length(model: minseek.Model) -> dict[str, Any]:
    """Cost against the prompt's length at a fixed cap; beyond 8,192 tokens positions are encoded again."""
    rows = []
    for tokens in (1024, 2048, 4096, 8192, 16384, 32768):
        ids = model.encode(text("python"))[:tokens]
        plan = minseek.plan(model, kv_budget=10**10, cap=512, sequences=4)
        jobs = [
            Generation(model, ids[i:] + ids[:i], max_new_tokens=16, sampling=Sampling(temperature=0), ignore_eos=True)
            for i in range(4)
        ]
        engine = Engine(model, plan)
        began = time.perf_counter()
        for _ in engine.run(jobs):
            pass
        rows.append({"tokens": tokens, "seconds": time.perf_counter() - began, "kv_bytes": plan.kv_bytes})
        rows[-1]["reencodings"] = jobs[0].completion().stats.reencodings
        print(rows[-1], flush=True)
    return {"rows": rows}


def report(figures: dict[str, Any]) -> str:
    """All tables."""
    lines = []
    if "peers" in figures:
        for title, result in figures["peers"].items():
            best = {name: min(runs, key=lambda r: r["seconds"]) for name, runs in result["runs"].items()}
            mine = best["minseek"]["seconds"]
            rows = []
            for name, run in best.items():
                version = run.get("version", figures["machine"]["minseek"])
                if run.get("stopped"):
                    rows.append([name, "", "", "", f"stopped after {run['seconds']:.0f}", f"over {PATIENCE}x"])
                    continue
                times = " / ".join(f"{r['seconds']:.0f}" for r in result["runs"][name])
                rows.append(
                    [
                        f"{name} {version}",
                        run["batch"],
                        f"{result['tokens'] / run['seconds']:,.0f}",
                        f"{result['new'] / run['seconds']:.1f}",
                        times,
                        f"{run['seconds'] / mine:.2f}x",
                    ]
                )
            head = ("engine", "in flight", "tokens/s, all", "tokens/s, new", "seconds", "minseek is faster by")
            lines.append(table(f"{title}, KV budget 192 MB", head, rows))
    for kind in [kind for kind in ("step", STEP_ONE_BY_ONE) if kind in figures]:
        rows = [
            [
                r["batch"],
                r["cap"],
                f"{1000 * r['seconds']:.1f}",
                f"{r['batch'] / r['seconds']:,.0f}",
                f"{r['live_bytes'] / 1e6:.0f} MB",
                f"{r['bandwidth'] / 1e9:.1f} GB/s",
                f"{r['share']:.0%}",
            ]
            for r in figures[kind]["rows"]
        ]
        head = ("batch", "cap", "ms a step", "tokens/s", "live cache", "bandwidth", "share of roofline")
        lines.append(table("A decoding step" + kind.removeprefix("step"), head, rows))
    if "prefill" in figures:
        rows = [
            [
                r["batch"],
                f"{r['tokens'] / r['seconds']:,.0f}",
                f"{r['operations'] / r['seconds'] / 1e9:.0f}",
                f"{r['gemm_rate'] / 1e9:.0f}",
                f"{r['share']:.0%}",
            ]
            for r in figures["prefill"]["rows"]
        ]
        head = ("prompts", "tokens/s", "GFLOP/s", "GFLOP/s of PyTorch's best product", "share")
        lines.append(table("Reading prompts of 1,536 tokens at cap 512, eviction included", head, rows))
    if "length" in figures:
        rows = [
            [f"{r['tokens']:,}", f"{r['seconds']:.1f}", f"{4 * r['tokens'] / r['seconds']:,.0f}", r["reencodings"]]
            for r in figures["length"]["rows"]
        ]
        lines.append(table("Four prompts at cap 512", ("tokens each", "seconds", "tokens/s", "re-encodings"), rows))
    return "\n".join(lines)


def plot(figures: dict[str, Any], kept_as: str) -> None:
    """Seconds against the prompt's length."""
    import matplotlib.pyplot as plt

    rows = figures["length"]["rows"]
    plt.figure(figsize=(5, 3.2))
    plt.plot([r["tokens"] for r in rows], [r["seconds"] for r in rows], "o-", label="cap 512")
    plt.xlabel("tokens of each of 4 prompts")
    plt.ylabel("seconds")
    plt.title("Cost is linear in the prompt's length")
    plt.tight_layout()
    plt.savefig(RESULTS / f"{kept_as}-length.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("step", "prefill", "length", "peers"))
    parser.add_argument("--rounds", type=int, default=2, help="how often each engine runs each batch")
    parser.add_argument("--engines", nargs="*", default=USUAL, choices=[*PEERS], help="which others to compare with")
    parser.add_argument("--jobs", type=int, nargs="*", default=[*range(len(SCENARIOS))], help="which batches, from 0")
    parser.add_argument("--device", default="auto", help="as minseek.load takes it; peers run on the CPU")
    parser.add_argument("--results", default="throughput", help="the name of the figures' file in bench/results")
    parser.add_argument("--report", action="store_true", help="print the tables of the last run")
    args = parser.parse_args()
    if args.report:
        print(report(kept(args.results)))
        return
    warnings.simplefilter("ignore")
    model = minseek.load("smollm2", device=args.device, weights="dense")
    try:
        figures = kept(args.results)
    except FileNotFoundError:
        figures = {}
    figures["machine"] = machine()
    sections = {"step": step, "prefill": prefill, "length": length}
    for name, run in sections.items():
        if args.only in (None, name):
            figures[name] = run(model)
    if args.only in (None, "step") and model.placement.device.type == "cuda":
        os.environ["MINSEEK_CUDA_GRAPHS"] = "0"
        figures[STEP_ONE_BY_ONE] = step(minseek.load("smollm2", device=args.device, weights="dense"))
        del os.environ["MINSEEK_CUDA_GRAPHS"]
    if args.only in (None, "length"):
        plot(figures, args.results)
    if args.only in (None, "peers") and model.placement.device.type == "cpu":
        peers(model, args.rounds, args.engines, args.jobs, figures, args.results)
    write(args.results, figures)
    print(report(figures))


if __name__ == "__main__":
    main()
