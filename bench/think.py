"""Long thinking on SmolLM2-135M: time per token, memory, and the share of the roofline, compared with transformers.

    python bench/think.py [--quick | --only SECTION | --report]

Run it with nothing else running; it takes about 25 minutes, most of them in transformers.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from common import bandwidth, kept, machine, table, write
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

import minseek
from minseek.models import alias_file
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import render_prompt
from minseek.models.loading.gguf.transformers_model import gguf_transformers_model

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


def stream(model: minseek.Model, strategy: Any, key_storage: Any = "re-rotated") -> Iterator[Any]:
    """A run whose thoughts all have one length."""
    bounds = minseek.Limits(min_thought_tokens=LENGTH, max_thought_tokens=LENGTH, answer_tokens=32, max_tokens=10**6)
    sampling = minseek.Sampling(seed=0)
    return minseek.stream(model, QUESTION, strategy=strategy, sampling=sampling, limits=bounds, key_storage=key_storage)


def finished(events: Iterator[Any]) -> minseek.Result:
    """The result at the end of a run."""
    *_, last = events
    return last.result


def advance(events: Iterator[Any], index: int) -> None:
    """Go on to where a thought begins."""
    for event in events:
        if isinstance(event, minseek.ThoughtStarted) and event.index == index:
            return


def budget_forcing_in_transformers(reference: Any, model: minseek.Model, thoughts: int) -> tuple[float, int]:
    """Budget forcing with `generate`, its cache handed on from thought to thought: seconds and bytes of cache."""
    ids = encode_rendered(model.tokenizer, render_prompt(model.tokenizer, QUESTION))
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
    session.forward(ids)
    ours = []
    for _ in range(24):
        began = time.perf_counter()
        token = int(session.forward([5]).argmax())
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
    """Seconds of `import minseek` in a separate process, less those of an empty one."""

    def seconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    taken = [seconds("import minseek") - seconds("pass") for _ in range(5)]
    return statistics.median(taken)


def measure_steps(model: minseek.Model, reference: Any, quick: bool) -> list[dict[str, float]]:
    """A decoding step after contexts of several lengths, and the floor measured right before."""
    rows = []
    for context in (64, 256, 512) if quick else (64, 512, 1024, 4096, 8000):
        speed = bandwidth()
        ours, theirs = step_times(model, reference, context)
        moved = model.weight_bytes + context * model.token_bytes()
        rows.append(
            {
                "context": context,
                "bytes": moved,
                "bandwidth": speed,
                "floor_ms": moved / speed * 1e3,
                "minseek_ms": ours * 1e3,
                "transformers_ms": theirs * 1e3,
            }
        )
    return rows


def measure_long(model: minseek.Model, reference: Any, quick: bool) -> dict[str, Any]:
    """A long run. Its last thought and the first one of a second run are timed in turns, event by event.

    Timed in place, minutes apart, the two show how the machine's speed drifts: ratios from 0.97 to 1.14.
    """
    thoughts = 5 if quick else 50
    late, early = (stream(model, minseek.MinSeek(thoughts)) for _ in range(2))
    began = time.perf_counter()
    advance(late, thoughts)
    seconds_before = time.perf_counter() - began
    advance(early, 1)
    taken = {"late": 0.0, "early": 0.0}
    ended = 0
    while ended < 2:  # the moving of keys at a thought's end is timed with it
        for name, events in (("late", late), ("early", early)):
            began = time.perf_counter()
            event = next(events)
            taken[name] += time.perf_counter() - began
            ended += isinstance(event, minseek.ThoughtEnded)
    result = finished(late)
    stats = result.stats
    return {
        "thoughts": thoughts,
        "tokens": stats.tokens,
        "tokens_per_second": thoughts * LENGTH / seconds_before,
        "first_ms": taken["early"] / LENGTH * 1e3,
        "last_ms": taken["late"] / LENGTH * 1e3,
        "last_over_first": taken["late"] / taken["early"],
        "kv_tokens_peak": stats.kv_tokens_peak,
        "kv_tokens_bound": stats.prompt_tokens + 3 * LENGTH,
        "kv_bytes_peak": stats.kv_bytes_peak,
    }


def measure_keys(model: minseek.Model, reference: Any, quick: bool) -> list[dict[str, Any]]:
    """Both ways to store keys, in turns."""
    rows = []
    for keys in ("re-rotated", "unrotated", "re-rotated", "unrotated"):
        stats = finished(stream(model, minseek.MinSeek(4), keys)).stats
        rows.append({"keys": keys, "tokens_per_second": stats.tokens_per_second, "kv_bytes_peak": stats.kv_bytes_peak})
    return rows


def measure_against(model: minseek.Model, reference: Any, quick: bool) -> dict[str, Any]:
    """Min-Seek and budget forcing in transformers with equally many thoughts."""
    thoughts = 4 if quick else 40
    stats = finished(stream(model, minseek.MinSeek(thoughts))).stats
    seconds, cached = budget_forcing_in_transformers(reference, model, thoughts)
    return {
        "thoughts": thoughts,
        "rows": [
            {"what": "minseek, Min-Seek", "seconds": stats.seconds, "kv_bytes": stats.kv_bytes_peak},
            {"what": "transformers generate, budget forcing", "seconds": seconds, "kv_bytes": cached},
        ],
    }


def measure_start(model: minseek.Model, reference: Any, quick: bool) -> dict[str, float]:
    """Waiting times of a user."""
    return {
        "first_token_seconds": statistics.median(seconds_to_first_token() for _ in range(3)),
        "import_seconds": seconds_to_import(),
    }


SECTIONS: dict[str, Any] = {
    "steps": measure_steps,
    "long": measure_long,
    "keys": measure_keys,
    "against_transformers": measure_against,
    "start": measure_start,
}


def report(figures: dict[str, Any]) -> str:
    """All tables."""
    steps, long, against = figures["steps"], figures["long"], figures["against_transformers"]
    slowest = against["rows"][-1]["seconds"]
    short = steps[0]
    parts = [
        table(
            "### A greedy decoding step, batch 1",
            (
                *("cached tokens", "GB moved", "GB/s", "floor ms", "minseek ms", "tok/s", "of the floor's speed"),
                *("transformers ms", "tok/s", "ratio"),
            ),
            [
                (
                    r["context"],
                    f"{r['bytes'] / 1e9:.3f}",
                    f"{r['bandwidth'] / 1e9:.1f}",
                    f"{r['floor_ms']:.1f}",
                    f"{r['minseek_ms']:.1f}",
                    f"{1e3 / r['minseek_ms']:.1f}",
                    f"{r['floor_ms'] / r['minseek_ms']:.0%}",
                    f"{r['transformers_ms']:.1f}",
                    f"{1e3 / r['transformers_ms']:.1f}",
                    f"{r['transformers_ms'] / r['minseek_ms']:.1f}x",
                )
                for r in steps
            ],
        ),
        table(
            f"### Long thinking: Min-Seek, {long['thoughts']} thoughts of {LENGTH} tokens, temperature 0.6, top-p 0.95",
            (
                *("generated", "tok/s", "ms a token, thought 1", f"thought {long['thoughts']}", "ratio, in turns"),
                *("peak cache", "PT1 + 2 thoughts"),
            ),
            [
                (
                    long["tokens"],
                    f"{long['tokens_per_second']:.1f}",
                    f"{long['first_ms']:.2f}",
                    f"{long['last_ms']:.2f}",
                    f"{long['last_over_first']:.3f}",
                    f"{long['kv_tokens_peak']} tokens, {long['kv_bytes_peak'] / 1e6:.1f} MB",
                    f"{long['kv_tokens_bound']} tokens",
                )
            ],
        ),
        table(
            "### How keys are stored, in turns",
            ("keys", "tok/s", "peak cache"),
            [
                (r["keys"], f"{r['tokens_per_second']:.1f}", f"{r['kv_bytes_peak'] / 1e6:.1f} MB")
                for r in figures["keys"]
            ],
        ),
        table(
            f"### Against transformers: {against['thoughts']} induced thoughts of {LENGTH} tokens, in this order",
            ("run", "seconds", "times faster", "cache at most"),
            [
                (r["what"], f"{r['seconds']:.1f}", f"{slowest / r['seconds']:.1f}x", f"{r['kv_bytes'] / 1e6:.1f} MB")
                for r in against["rows"]
            ],
        ),
        table(
            "### Targets",
            ("what", "target", "measured"),
            [
                ("time per token, last thought over first", "at most 1.05", f"{long['last_over_first']:.3f}"),
                ("peak cache, tokens", f"at most {long['kv_tokens_bound']}", long["kv_tokens_peak"]),
                (
                    "Min-Seek against budget forcing in transformers",
                    "at least 3x faster",
                    f"{slowest / against['rows'][0]['seconds']:.1f}x",
                ),
                (
                    f"a step after {short['context']} tokens over the bandwidth floor",
                    "at most 1.8",
                    f"{short['minseek_ms'] / short['floor_ms']:.2f}",
                ),
                ("import minseek", "below 0.3 s", f"{figures['start']['import_seconds']:.2f} s"),
                (
                    "from the command to the first token, warm disk",
                    "below 6 s",
                    f"{figures['start']['first_token_seconds']:.1f} s",
                ),
            ],
        ),
    ]
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few minutes only, and nothing is written")
    parser.add_argument("--only", choices=SECTIONS, help="measure one section again and keep the others' figures")
    parser.add_argument("--report", action="store_true", help="print the tables of the kept figures")
    args = parser.parse_args()
    figures = kept("think") if args.only or args.report else {}
    figures = {key: value for key, value in figures.items() if key in SECTIONS}
    if not args.report:
        warnings.simplefilter("ignore")
        torch.set_grad_enabled(False)
        file = alias_file("smollm2")
        assert file is not None, "minseek models --get smollm2"
        model = minseek.load("smollm2", device="cpu", dtype="bfloat16")
        reference = gguf_transformers_model(file, torch.bfloat16)
        figures |= {"model": "SmolLM2-135M bfloat16", "weight_bytes": model.weight_bytes, "step": model.backend}
        for name in [args.only] if args.only else SECTIONS:
            print(f"measuring {name}", flush=True)
            figures[name] = SECTIONS[name](model, reference, args.quick)
        if not args.quick:
            write("think", figures)
    for key, value in machine().items():
        print(f"{key}: {value}")
    print(report(figures))


if __name__ == "__main__":
    main()
