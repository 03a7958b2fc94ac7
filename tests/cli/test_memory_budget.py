"""The budget of the whole process: plans against the peak that Linux counts, and refusals that name what would do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import minseek
from tests.helpers.process_memory import EMBEDDED, LINUX, measure, planned, post_chats

pytestmark = [pytest.mark.slow, LINUX]
TOLERANCE = 0.05


def reason(model: str, folder: Path) -> list[str]:
    long = "The quick brown fox jumps over the lazy dog. " * (8 if model == "tiny" else 100)
    limits = ("--strategy", "standard", "--thinking-budget", "0", "--answer-tokens", "16", "--seed", "0")
    return ["reason", long, "-m", model, "-R", *limits]


def batch(model: str, folder: Path) -> list[str]:
    text = "Some text about nothing much. " * (12 if model == "tiny" else 60)
    lines = [json.dumps({"id": str(n), "prompt": text, "max_new_tokens": 4}) for n in range(4)]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    sizes = ("--cap", "64", "--block", "32") if model == "tiny" else ("--cap", "192", "--block", "64")
    return ["batch", str(folder / "in.jsonl"), str(folder / "out.jsonl"), "-m", model, *sizes]


def serve(model: str, folder: Path) -> list[str]:
    return ["serve", "-m", model, "--port", "0", "--kv-budget", "30MB"]


def tune(model: str, folder: Path) -> list[str]:
    (folder / "data.txt").write_text("a few words of no importance; " * 200)
    sizes = ("--max-length", "64", "--steps", "2", "--gradient-accumulation-steps", "1", "--eval-share", "0")
    return ["tune", str(folder / "data.txt"), "-m", model, "-o", str(folder / "tuned"), *sizes]


def evaluate(model: str, folder: Path) -> list[str]:
    pytest.importorskip("math_verify")
    tasks = [json.dumps({"id": str(n), "prompt": f"Compute {n}+{n + 1}.", "answer": str(2 * n + 1)}) for n in range(2)]
    (folder / "tasks.jsonl").write_text("\n".join(tasks) + "\n")
    limits = ("--thoughts", "0,1", "--max-thought-tokens", "12", "--answer-tokens", "8", "--cache-tokens", "128")
    own = ("--strategy", "min-seek", "--sequences", "2")
    return ["eval", str(folder / "tasks.jsonl"), "-m", model, "-o", str(folder / "results"), *limits, *own]


def use(command: str, model: str, chats: int = 3) -> Callable[[str], None] | None:
    return partial(post_chats, model=model, count=chats) if command == "serve" else None


@pytest.mark.parametrize("model", EMBEDDED)
@pytest.mark.parametrize("arguments", [reason, batch, serve, tune, evaluate], ids=lambda made: made.__name__)
def test_a_plan_is_the_peak_of_the_process_and_a_budget_is_never_passed(
    model: str, arguments: Callable[[str, Path], list[str]], tmp_path: Path
) -> None:
    minseek.load(model)  # kernels are compiled and the tokenizer is converted at first use
    args = arguments(model, tmp_path)
    plan = planned(*args)
    budget = plan["total_bytes"] // 10**6 + 2
    ran = measure(*args, "--memory", f"{budget}MB", use=use(args[0], model))
    assert ran.code == 0, ran.err
    print(f"{args[0]} {model}: planned {plan['total_bytes'] / 1e6:.1f} MB, peak {ran.peak / 1e6:.1f} MB")  # with -s
    assert ran.peak <= budget * 10**6
    assert ran.peak >= (1 - TOLERANCE) * plan["total_bytes"]
    assert plan["total_bytes"] == sum(plan.get(f"{name}_bytes", 0) for name in PARTS)


@pytest.mark.parametrize("arguments", [reason, batch, serve, tune], ids=lambda made: made.__name__)
def test_the_size_that_a_refusal_names_is_enough(arguments: Callable[[str, Path], list[str]], tmp_path: Path) -> None:
    args = arguments("tiny", tmp_path)
    if args[0] == "tune":
        args += ["--gradient-checkpointing"]
    plan = planned(*args)
    fixed = plan["total_bytes"] - plan.get("kv_bytes", 0) - plan["activation_bytes"]
    refused = measure(*args, "--memory", str(fixed))
    assert (refused.code, refused.out) == (2, "")
    assert "Traceback" not in refused.err
    if args[0] == "tune":  # it names settings that fit
        assert "--max-length 32" in refused.err
        return
    named = re.search(r"give (\d+)MB or more", refused.err)
    assert named, refused.err
    ran = measure(*args, "--memory", f"{named[1]}MB", use=use(args[0], "tiny", chats=0))
    assert ran.code == 0, ran.err
    assert ran.peak <= int(named[1]) * 10**6


PARTS = ("interpreter", "weight", "activation", "kv", "gradient", "state", "workspace")
