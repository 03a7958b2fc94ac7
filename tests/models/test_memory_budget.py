"""A budget of the whole process in Python: what fits, what is refused, and that calls can only lower it."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import minseek
from minseek.batch import run_file
from minseek.errors import InputError
from minseek.models import memory_budget
from minseek.models.process_memory import resident_part
from tests.helpers.process_memory import LINUX

pytestmark = LINUX
PROCESS = 500_000_000


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch, tiny: minseek.Model) -> Iterator[minseek.Model]:
    """The tiny model in a process of always 500 MB without it."""
    monkeypatch.setattr(memory_budget, "resident_bytes", lambda: PROCESS + tiny.resident_bytes)
    for name in ("RUN_BYTES", "ENGINE_BYTES"):
        monkeypatch.setattr(memory_budget, name, 0)
    monkeypatch.setattr("minseek.engine.memory_fit.ENGINE_BYTES", 0)
    monkeypatch.setattr("minseek.models.memory_budget.interpreter_bytes.__defaults__", (0,))
    yield tiny
    tiny.memory = None


def size_in(refusal: str) -> str:
    """The size that a refusal names."""
    found = re.search(r"give (\d+MB) or more", refusal)
    assert found, refusal
    return found[1]


# Plans


@pytest.mark.parametrize("extra", [1_000_000, 3_000_000, 20_000_000])
@pytest.mark.parametrize("policy", ["novel-values", "rank-sum", None])
def test_the_cache_gets_what_the_rest_leaves(fixed: minseek.Model, extra: int, policy: str | None) -> None:
    budget = PROCESS + fixed.weight_bytes + extra
    plan = minseek.plan(fixed, memory=budget, cap=80, block=20, policy=policy)
    assert plan.memory == plan.as_dict()["memory"] == budget
    assert plan.total_bytes <= budget
    assert plan.interpreter_bytes == PROCESS
    more = minseek.plan(fixed, kv_budget=(plan.slots + 1) * plan.slot.nbytes, cap=80, block=20, policy=policy)
    assert more.slots == plan.slots + 1
    assert more.total_bytes > budget  # no slot more would have fitted


def test_of_two_budgets_the_smaller_holds(fixed: minseek.Model) -> None:
    large, small = PROCESS + 50_000_000, PROCESS + fixed.weight_bytes + 2_000_000
    assert minseek.plan(fixed, kv_budget="1MB", memory=large).kv_budget == 1_000_000
    plan = minseek.plan(fixed, kv_budget="50MB", memory=small)
    assert plan.kv_bytes < 2_000_000
    assert plan.total_bytes <= small
    with pytest.raises(InputError, match=r"KV budget of 1\.00 KB does not hold one slot"):
        minseek.plan(fixed, kv_budget="1KB", memory=large)


def test_the_size_that_a_plan_names_is_the_smallest(fixed: minseek.Model) -> None:
    def plan(memory: int | str) -> minseek.BatchPlan:
        return minseek.plan(fixed, memory=memory, cap=80, block=20)

    with pytest.raises(InputError) as refused:
        plan(PROCESS + fixed.weight_bytes)
    assert "\n" not in str(refused.value)
    assert "500 MB for the process without the model" in str(refused.value)
    named = int(size_in(str(refused.value))[:-2])
    assert plan(f"{named}MB").slots >= 1
    with pytest.raises(InputError):
        plan(f"{named - 2}MB")  # one is for the difference between two processes


# Runs


def run(model: minseek.Model, **options: Any) -> minseek.Result:
    limits = minseek.Limits(answer_tokens=20, max_thought_tokens=30)
    return minseek.reason(
        model, "Why?", strategy=minseek.MinSeek(3), sampling=minseek.Sampling(seed=0), limits=limits, **options
    )


def test_a_run_in_a_budget_is_the_run_without(fixed: minseek.Model) -> None:
    roomy = PROCESS + 60_000_000
    plan = minseek.plan_run(fixed, "Why?", memory=roomy)
    assert plan.process is not None
    assert plan.memory == roomy
    assert plan.process.total_bytes <= roomy
    assert run(fixed, memory=roomy).tokens == run(fixed).tokens


def test_a_tight_budget_bounds_the_cache(fixed: minseek.Model) -> None:
    with pytest.raises(InputError) as refused:
        run(fixed, memory=PROCESS + 1000)
    named = size_in(str(refused.value))
    plan = minseek.plan_run(fixed, "Why?", memory=named)
    assert plan.process is not None
    assert plan.process.total_bytes <= int(named[:-2]) * 10**6
    result = run(fixed, memory=named)
    assert result.stats.kv_bytes_allocated <= plan.process.kv_bytes
    assert plan.preallocated is not None
    assert result.stats.kv_tokens_peak <= plan.preallocated


def test_a_budget_of_the_model_can_only_be_lowered(fixed: minseek.Model, tmp_path: Path) -> None:
    fixed.memory = PROCESS + 40_000_000
    more, less = fixed.memory + 1, fixed.memory - 5_000_000
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "prompt": "Why?", "max_new_tokens": 2}) + "\n")
    files = str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")
    calls: list[Callable[[int], Any]] = [
        lambda memory: minseek.plan(fixed, memory=memory),
        lambda memory: minseek.plan_run(fixed, "Why?", memory=memory),
        lambda memory: run(fixed, memory=memory),
        lambda memory: next(iter(minseek.stream(fixed, "Why?", memory=memory))),
        lambda memory: minseek.generate(fixed, ["Why?"], max_new_tokens=2, memory=memory),
        lambda memory: run_file(fixed, *files, memory=memory, overwrite=True),
    ]
    for call in calls:
        with pytest.raises(InputError, match="than the 540 MB with which the model was loaded"):
            call(more)
        call(less)
    assert minseek.plan(fixed).memory == fixed.memory
    assert minseek.plan(fixed).total_bytes <= fixed.memory
    assert minseek.plan_run(fixed, "Why?").memory == fixed.memory


def test_a_plan_that_takes_more_is_refused(fixed: minseek.Model) -> None:
    plan = minseek.plan(fixed, kv_budget="40MB")
    with pytest.raises(InputError, match="make the plan with that memory"):
        minseek.generate(fixed, ["Why?"], plan=plan, memory=PROCESS + 20_000_000)


@pytest.mark.parametrize("memory", ["much", 0, -5, 1.5])
def test_wrong_sizes_are_refused(tiny: minseek.Model, memory: Any) -> None:
    for call in (lambda: minseek.plan(tiny, memory=memory), lambda: run(tiny, memory=memory)):
        with pytest.raises((InputError, TypeError), match="size"):
            call()
    with pytest.raises((InputError, TypeError), match="size"):
        minseek.load("tiny", memory=memory)


def test_weights_that_do_not_fit_are_not_read(tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_folders["llama"])
    monkeypatch.setattr("minseek.models.loading.load._read", lambda *_: pytest.fail("they were read"))
    with pytest.raises(InputError, match=r"the weights of .* take \d+ KB, and the process .* give more than \d+MB"):
        minseek.load(folder, device="cpu", dtype="float32", memory="20MB")


def test_a_loaded_model_keeps_its_budget(tiny_folders: dict[str, Path]) -> None:
    model = minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32", memory="64GB")
    assert model.memory == 64 * 10**9
    assert minseek.plan(model, cap=80, block=20, sequences=2).memory == 64 * 10**9


# Pages


def test_pages_of_a_mapped_file_count_once_they_are_read(tmp_path: Path) -> None:
    count = 64 * mmap.PAGESIZE
    (tmp_path / "weights").write_bytes(b"x" * count)
    mapped = torch.from_file(str(tmp_path / "weights"), shared=True, size=count, dtype=torch.uint8)
    assert resident_part([mapped]) == 0
    assert int(mapped[: 10 * mmap.PAGESIZE].long().sum()) > 0
    some = resident_part([mapped])
    assert 10 * mmap.PAGESIZE <= some <= count  # the system reads ahead
    assert int(mapped.long().sum()) == 120 * count
    assert resident_part([mapped, mapped]) == 2 * count


def test_allocated_weights_are_resident(tiny: minseek.Model) -> None:
    assert tiny.weight_bytes <= tiny.resident_bytes
