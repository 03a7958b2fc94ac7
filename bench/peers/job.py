"""Shared by all peer scripts: the job they receive and the one JSON object they print. Standard library only."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Job:
    """Requests to answer greedily, end-of-text ignored, within a budget of cache bytes."""

    model: str
    gguf: str
    prompts: list[list[int]]
    max_new_tokens: int
    kv_budget: int
    threads: int = 2
    dtype: str = "bfloat16"
    gguf_dtype: str = ""
    """llama.cpp: empty for the GGUF as shipped, or ``bf16``, ``f16``, ``f32`` for one made from the dense folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Overrides of the peer's settings, for tuning."""

    def token_bytes(self) -> int:
        """Bytes of keys and values that one token takes in all layers, in the dtype of the weights."""
        config = json.loads((Path(self.model) / "config.json").read_text())
        heads = config.get("num_key_value_heads", config["num_attention_heads"])
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        return 2 * config["num_hidden_layers"] * heads * head_dim * (4 if self.dtype == "float32" else 2)

    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer."""
        return max(len(prompt) for prompt in self.prompts) + self.max_new_tokens


def read_job() -> Job:
    """The job in the file named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} JOB.json")
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    need = job.longest() * job.token_bytes()
    if need > job.kv_budget:
        raise SystemExit(
            f"the longest request needs {need} bytes of cache, over the budget of {job.kv_budget}: raise it"
        )
    return job


def peak_rss_mb() -> float:
    """The most memory this process and the living ones it started have held, each at its own peak."""
    kilobytes = 0
    todo = ["self"]
    while todo:
        folder = Path("/proc") / todo.pop()
        try:
            status = (folder / "status").read_text().splitlines()
            todo += [child for task in folder.glob("task/*/children") for child in task.read_text().split()]
        except OSError:  # it has ended meanwhile
            continue
        kilobytes += sum(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return round(kilobytes / 1024, 1)


def answer(job: Job, peer: str, version: str, seconds: float, tokens: list[list[int]], **more: Any) -> None:
    """Print the figures as the last line."""
    short = [index for index, ids in enumerate(tokens) if len(ids) != job.max_new_tokens]
    if short:
        raise SystemExit(f"{peer} gave another number of tokens than {job.max_new_tokens} for the requests {short}")
    figures = {
        "peer": peer,
        "version": version,
        "seconds": round(seconds, 3),
        "prompt_tokens": sum(map(len, job.prompts)),
        "new_tokens": sum(map(len, tokens)),
        "peak_rss_mb": peak_rss_mb(),
        **more,
        "tokens": tokens,
    }
    sys.stdout.flush()
    print(json.dumps(figures), flush=True)
