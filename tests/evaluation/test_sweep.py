"""Sweeps over strategies, thoughts, seeds and tasks: each trial is the run that `minseek.reason` makes by itself."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import minseek
from minseek.cli import main
from minseek.engine import Engine
from minseek.evaluation import evaluate, plan_evaluation
from minseek.evaluation.eval_file import EvalFileWriter
from minseek.evaluation.eval_records import EvalRecord
from minseek.evaluation.eval_settings import EvalSettings, plan_trial_slots
from minseek.evaluation.sweep import sweep
from minseek.evaluation.tasks import Task
from minseek.evaluation.trials import Trial, expand_trials
from minseek.evaluation.variants import parse_strategies
from minseek.reasoning import Decision
from tests.helpers.tiny_models import save

pytestmark = pytest.mark.slow

TASKS = [
    Task("a", "What is 17 + 25?", "42"),
    Task("b", "Sort 3 1 2.", "1 2 3"),
    Task("c", "Is it?", "A", choices=("yes", "no")),
]
SPELLED = ["standard", "min-seek", "min-seek:rule=random,keep=2", "budget-forcing", "min-seek:answer=final-thought"]
SPELLED += ["min-seek:vote=true", "budget-forcing:stop_when_stable=2"]
LIMITS = minseek.Limits(max_tokens=150, answer_tokens=12, max_thought_tokens=25)


def run_all(
    model: minseek.Model, settings: EvalSettings, spelled: Sequence[str], seeds: Sequence[int]
) -> list[EvalRecord]:
    plan = plan_trial_slots(model, settings, kv_budget=None, sequences=5)
    found = list(expand_trials(parse_strategies(spelled), settings.grid, seeds, TASKS))
    return list(sweep(model, Engine(model, plan), found, settings))


def own_seed(record: EvalRecord) -> int:
    """The seed of a record's run, found again by its trial."""
    variant = parse_strategies([record.strategy])[0]
    task = next(task for task in TASKS if task.id == record.task)
    return Trial(variant, record.thoughts, (), task, record.seed).sampling_seed


def test_each_task_and_seed_draws_on_its_own_whatever_the_strategy() -> None:
    found = list(expand_trials(parse_strategies(SPELLED), (0, 2), (0, 1), TASKS))
    seeds = {(trial.task.id, trial.seed): set[int]() for trial in found}
    for trial in found:
        seeds[trial.task.id, trial.seed].add(trial.sampling_seed)
    assert all(len(own) == 1 for own in seeds.values())
    assert len(set.union(*seeds.values())) == len(TASKS) * 2


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("tight", [False, True])
def test_every_point_is_a_run_of_its_own(
    tiny: minseek.Model, temperature: float, tight: bool, one_thread: None
) -> None:
    sampling = minseek.Sampling(temperature=temperature, top_p=0.9)
    limits = replace(LIMITS, max_thought_tokens=None) if tight else LIMITS
    settings = EvalSettings((0, 1, 3, None), sampling, limits, cache_tokens=90 if tight else None)
    records = run_all(tiny, settings, SPELLED, (0, 1))
    assert len(records) == 3 * 2 * (1 + 1 + 1 + 1 + 4 + 4 + 4)
    ends = {point.ended_by for record in records for point in record.points}
    assert ("kv-budget" in ends) == tight
    prompts, variants = {task.id: task.question for task in TASKS}, {v.name: v for v in parse_strategies(SPELLED)}
    reached = set()
    for record in records:
        for point in record.points:
            result = minseek.reason(
                tiny,
                prompts[record.task],
                strategy=variants[record.strategy].strategy(point.thoughts),
                sampling=minseek.Sampling(temperature=temperature, top_p=0.9, seed=own_seed(record)),
                limits=replace(limits, kv_budget=90 * tiny.token_bytes()) if tight else limits,
            )
            stats = result.stats
            assert point.answer == result.answer
            assert (point.reached, point.ended_by) == (stats.thoughts, stats.ended_by)
            assert (point.thinking_tokens, point.answer_tokens) == (stats.thinking_tokens, stats.answer_tokens)
            assert point.tokens == stats.tokens
            assert point.kv_tokens_peak == stats.kv_tokens_peak
            assert point.kv_bytes_peak == stats.kv_tokens_peak * tiny.token_bytes()
            assert point.answer_ended_by == stats.answer_ended_by
            reached.add(point.reached)
        assert record.generated >= record.points[-1].tokens
    assert len(reached) > 3


def test_a_chain_that_meets_the_context_answers_for_all_that_is_longer(tiny: minseek.Model, one_thread: None) -> None:
    settings = EvalSettings(
        (0, 2, 50, 100), minseek.Sampling(), minseek.Limits(answer_tokens=12, max_thought_tokens=25)
    )
    for record in run_all(tiny, settings, ["budget-forcing"], (0,)):
        *_, before, last = record.points
        assert (before.answer, before.tokens, before.reached) == (last.answer, last.tokens, last.reached)
        assert last.reached < 50
        assert last.ended_by == "context"  # and not the budget of a slot that is as long
        assert last.kv_tokens_peak <= tiny.max_positions
    short = EvalSettings((0, 50), minseek.Sampling(), settings.limits, cache_tokens=120)
    for record in run_all(tiny, short, ["budget-forcing"], (0,)):
        assert record.points[-1].ended_by == "kv-budget"
        assert record.points[-1].kv_tokens_peak <= 120


def test_a_cache_grows_beyond_the_context_only_where_it_may(tiny: minseek.Model, one_thread: None) -> None:
    limits, cache_tokens = minseek.Limits(answer_tokens=12, max_thought_tokens=25), tiny.max_positions + 300
    held = EvalSettings((0, 100), minseek.Sampling(), limits, cache_tokens=cache_tokens)
    with pytest.raises(
        minseek.InputError, match=rf"a cache of {cache_tokens} tokens is more than the model's context of 512"
    ):
        plan_trial_slots(tiny, held, kv_budget=None, sequences=1)
    free = replace(held, limits=replace(limits, beyond_context=True))
    for record in run_all(tiny, free, ["budget-forcing", "min-seek"], (0,)):
        last = record.points[-1]
        if record.strategy == "min-seek":
            assert last.reached == 100
            continue
        assert last.ended_by == "kv-budget"
        assert tiny.max_positions < last.kv_tokens_peak <= cache_tokens
        alone = minseek.reason(
            tiny,
            next(task.question for task in TASKS if task.id == record.task),
            strategy=minseek.BudgetForcing(100),
            sampling=minseek.Sampling(seed=own_seed(record)),
            limits=replace(free.limits, kv_budget=cache_tokens * tiny.token_bytes()),
        )
        assert (last.answer, last.reached) == (alone.answer, alone.stats.thoughts)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass takes a second."""
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: float(next(ticks)))
    monkeypatch.setattr("minseek.evaluation.sweep.time", clock)


@pytest.mark.usefixtures("one_thread", "clock")
def test_seconds_of_a_point_are_those_of_its_own_run(tiny: minseek.Model) -> None:
    plan = plan_trial_slots(tiny, EvalSettings((0,)), kv_budget=None, sequences=1)
    limits = minseek.Limits(max_tokens=90, answer_tokens=12, max_thought_tokens=15)
    for name in ("min-seek", "budget-forcing"):
        grid = (0, 1, 4, None)
        settings, variants = EvalSettings(grid, minseek.Sampling(), limits), parse_strategies([name])
        [together] = sweep(tiny, Engine(tiny, plan), expand_trials(variants, grid, (0,), TASKS[:1]), settings)
        for point in together.points:
            alone = EvalSettings((point.thoughts,), settings.sampling, limits)
            [single] = sweep(tiny, Engine(tiny, plan), expand_trials(variants, alone.grid, (0,), TASKS[:1]), alone)
            assert point.seconds == pytest.approx(single.seconds)
        assert together.seconds > together.points[-1].seconds


@pytest.mark.usefixtures("one_thread", "clock")
def test_every_pass_is_divided_and_nothing_is_lost(tiny: minseek.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EvalSettings((0, 1, 3), minseek.Sampling(), LIMITS)
    engine = Engine(tiny, plan_trial_slots(tiny, settings, kv_budget=None, sequences=5))
    step, passes = engine.step, [0]

    def counted() -> Any:
        passes[0] += 1
        return step()

    monkeypatch.setattr(engine, "step", counted)
    wanted = expand_trials(parse_strategies(["min-seek", "standard"]), settings.grid, (0, 1), TASKS)
    records = list(sweep(tiny, engine, wanted, settings))
    assert sum(record.seconds for record in records) == pytest.approx(passes[0])


def test_answers_on_the_way_take_no_time_from_the_final_one(tiny: minseek.Model, one_thread: None) -> None:
    settings = EvalSettings(tuple(range(8)), minseek.Sampling(), minseek.Limits(answer_tokens=40, max_thought_tokens=8))
    for record in run_all(tiny, settings, ["min-seek"], (0,)):
        assert record.generated > 2 * record.points[-1].tokens
        assert record.points[-1].seconds < 0.7 * record.seconds


def test_a_budget_bounds_the_slots(tiny: minseek.Model) -> None:
    settings = EvalSettings((0,), cache_tokens=100)
    plan = plan_trial_slots(tiny, settings, kv_budget=3 * 100 * tiny.token_bytes() + 1, sequences=8)
    assert (plan.slots, plan.slot.capacity) == (3, 100)
    assert plan.kv_bytes <= 3 * 100 * tiny.token_bytes()
    with pytest.raises(minseek.InputError, match="does not hold one trial's cache of 100 tokens"):
        plan_trial_slots(tiny, settings, kv_budget=99 * tiny.token_bytes(), sequences=8)


def test_other_weights_have_another_fingerprint(tiny: minseek.Model, tmp_path: Path) -> None:
    other = minseek.load(str(save(tmp_path, "llama", closes=2.0)), device="cpu", dtype="float32")
    assert tiny.fingerprint() == tiny.fingerprint()
    other.weights.norm.mul_(1.001)
    assert other.fingerprint() != tiny.fingerprint()


# --- from Python


@dataclass(frozen=True)
class KeepOdd(minseek.Strategy):
    """A strategy of a user's own: keeps the thoughts with an odd index."""

    def decide(self, kept: Sequence[minseek.Thought], new: minseek.Thought, rng: random.Random) -> Decision:
        return Decision(None if new.index % 2 else new, "odd thoughts stay")


def test_evaluate_gives_the_cells_of_the_sweep_and_goes_on_with_a_file(
    tiny: minseek.Model, tmp_path: Path, one_thread: None
) -> None:
    file, seen = tmp_path / "new" / "results.jsonl", list[EvalRecord]()
    options: dict[str, Any] = {"thoughts": (2, 0), "limits": LIMITS, "results": file, "on_progress": seen.append}
    summary = evaluate(tiny, TASKS, strategies=["min-seek", KeepOdd(), minseek.Standard()], **options)
    settings = EvalSettings((0, 2), minseek.Sampling(), LIMITS)
    plain = run_all(tiny, settings, ["min-seek", "standard"], (0,))
    ours = {record.key: [point.answer for point in record.points] for record in summary.records}
    assert {record.key: [point.answer for point in record.points] for record in plain}.items() <= ours.items()
    assert [(cell.strategy, cell.thoughts) for cell in summary.cells] == [
        *(("min-seek", thoughts) for thoughts in (0, 2)),
        *(("KeepOdd", thoughts) for thoughts in (0, 2)),
        ("standard", 0),
    ]
    assert len(seen) == 3 * len(TASKS)
    assert summary.run is not None
    assert summary.run.generated == sum(record.generated for record in seen)
    for record in summary.records:
        if record.strategy == "KeepOdd":
            prompt = next(task.question for task in TASKS if task.id == record.task)
            sampling = minseek.Sampling(
                seed=Trial(parse_strategies([KeepOdd()])[0], 2, (), *_task_seed(record)).sampling_seed
            )
            alone = minseek.reason(tiny, prompt, strategy=KeepOdd(2), sampling=sampling, limits=LIMITS)
            assert record.points[-1].answer == alone.answer
    again = evaluate(tiny, TASKS, strategies=["min-seek", KeepOdd(), minseek.Standard()], **options)
    assert (again.cells, again.run, len(seen)) == (summary.cells, None, 3 * len(TASKS))
    more = evaluate(tiny, TASKS, strategies=["budget-forcing"], **options)
    assert more.run is not None
    assert {record.strategy for record in more.records} == {"budget-forcing"}
    assert len(file.read_text().splitlines()) == 1 + 4 * len(TASKS)


def _task_seed(record: EvalRecord) -> tuple[Task, int]:
    return next(task for task in TASKS if task.id == record.task), record.seed


def test_evaluate_needs_no_file(tiny: minseek.Model, one_thread: None) -> None:
    summary = evaluate(tiny, TASKS[:1], strategies=["standard"], thoughts=[0], limits=LIMITS)
    assert (len(summary.cells), summary.as_dict()["cells"][0]["tries"]) == (1, 1)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"strategies": ["max-seek"]}, minseek.InputError, "unknown strategy 'max-seek'"),
        ({"thoughts": []}, minseek.InputError, "there is no number of thoughts"),
        ({"thoughts": [-1]}, minseek.InputError, "numbers of 0 or more, not -1"),
        ({"thoughts": ["2"]}, TypeError, "integers or None, not '2'"),
        ({"seeds": (1, 1)}, minseek.InputError, r"different integers, not \[1, 1\]"),
        ({"sequences": 0}, minseek.InputError, "sequences must be 1 or more, not 0"),
        ({"cache_tokens": 30}, minseek.InputError, "need at least"),
        ({"sampling": 0.6}, TypeError, "sampling must be a Sampling, not 0.6"),
    ],
)
def test_evaluate_refuses_wrong_arguments(
    tiny: minseek.Model, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        plan_evaluation(tiny, TASKS, **options)


@pytest.mark.parametrize(("thoughts", "wrong"), [((0, 2), True), ((0, 5), False), ((None,), False)])
def test_more_kept_thoughts_than_any_trial_induces_are_refused(
    tiny: minseek.Model, thoughts: tuple[int | None, ...], wrong: bool
) -> None:
    tasks = TASKS[:1]
    with pytest.raises(minseek.InputError, match=r"keep 5 has no effect with thoughts 2") if wrong else nullcontext():
        plan_evaluation(tiny, tasks, strategies=["min-seek:keep=5"], thoughts=thoughts)


# --- the command


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest."""
    monkeypatch.setattr("minseek.evaluation.accuracy_plot.draw_accuracy", lambda *_: None)


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    file = tmp_path / "tasks.jsonl"
    # words are compared without math-verify, which takes its time over what a random model writes
    file.write_text("".join(json.dumps({"id": t.id, "question": t.question, "answer": "none"}) + "\n" for t in TASKS))
    return file


def flags(folder: Path, task_file: Path, out: Path, *more: str) -> list[str]:
    return [
        *("eval", str(task_file), "-m", str(folder), "--device", "cpu", "--dtype", "float32", "-o", str(out)),
        *("--strategy", "standard", "--strategy", "min-seek", "--strategy", "budget-forcing:", "--seeds", "0,1"),
        *("--thoughts", "0,2", "--answer-tokens", "10", "--max-thought-tokens", "15", "--sequences", "4", *more),
    ]


def answers(out: Path) -> dict[Any, Any]:
    """The part of the results that interruptions do not change: everything but times."""
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()[1:]]
    keys = {(line["strategy"], line["thoughts"], line["task"], line["seed"]): line for line in lines}
    assert len(keys) == len(lines)
    return {
        key: [{name: value for name, value in point.items() if name != "seconds"} for point in line["points"]]
        for key, line in keys.items()
    }


def test_the_command_writes_results_summary_and_picture(
    tiny_folders: dict[str, Path], task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    out = tmp_path / "out"
    given = flags(tiny_folders["llama"], task_file, out)
    assert main([*given, "--plan"]) == 0
    assert "18 trials: 3 tasks, 3 strategies, 2 seeds" in capsys.readouterr().out
    assert not out.exists()
    assert main(given) == 0
    printed = capsys.readouterr()
    assert "18 trials," in printed.err
    assert "budget-forcing" in printed.out
    assert {file.name for file in out.iterdir()} == {"results.jsonl", "summary.json", "accuracy.svg", "accuracy.png"}
    summary = json.loads((out / "summary.json").read_text())
    assert [(cell["strategy"], cell["thoughts"], cell["tries"]) for cell in summary["cells"]] == [
        ("standard", 0, 6),
        *(("min-seek", thoughts, 6) for thoughts in (0, 2)),
        *(("budget-forcing:", thoughts, 6) for thoughts in (0, 2)),
    ]
    before = (out / "results.jsonl").read_bytes()
    assert main([*given, "--limit", "2", "--json"]) == 0  # all of it is there
    printed = capsys.readouterr()
    assert "12 have their results already" in printed.err
    assert all(cell["tries"] == 4 for cell in json.loads(printed.out)["cells"])
    assert (out / "results.jsonl").read_bytes() == before


@pytest.mark.usefixtures("one_thread", "no_picture")
def test_a_stopped_run_goes_on(
    tiny_folders: dict[str, Path],
    task_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert main(flags(tiny_folders["llama"], task_file, whole)) == 0
    write, count = EvalFileWriter.write, [0]

    def stop_after_five(self: EvalFileWriter, record: EvalRecord) -> None:
        if count[0] == 5:
            raise KeyboardInterrupt
        count[0] += 1
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(EvalFileWriter, "write", stop_after_five)
        capsys.readouterr()
        assert main(flags(tiny_folders["llama"], task_file, out)) == 130
    assert "interrupted after 5 of 18 trials" in capsys.readouterr().err
    file = out / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-40])  # as a killed run may leave it
    assert main(flags(tiny_folders["llama"], task_file, out)) == 0
    assert "4 have their results already" in capsys.readouterr().err
    assert answers(out) == answers(whole)
    assert len(answers(out)) == 18


@pytest.mark.usefixtures("one_thread", "no_picture")
def test_a_killed_run_is_resumed(tiny_folders: dict[str, Path], task_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    given = flags(
        tiny_folders["llama"], task_file, out, "--max-thought-tokens", "30", "--thoughts", "0,20", "--limit", "2"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "minseek", *given], env=environment, stderr=subprocess.DEVNULL)
    file, end = out / "results.jsonl", time.monotonic() + 90
    while process.poll() is None and time.monotonic() < end:
        if file.exists() and file.read_bytes().count(b"\n") >= 3:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    assert 3 <= file.read_bytes().count(b"\n") < 13
    assert main(given) == 0
    assert len(answers(out)) == 12


WRONG = {
    ("--thoughts", "0,1"): r"holds results with thoughts \[0, 2\], and now it is \[0, 1\]",
    ("--temperature", "0.9"): r"holds results with temperature 0\.6, and now it is 0\.9",
    ("--strategy", "min-seek"): "the strategy 'min-seek' is given twice",
    ("--seeds", "x"): "seeds are given as numbers",
    ("--limit", "0"): "--limit must be 1 or more, not 0",
    ("--cache-tokens", "30"): "need at least",
    ("--kv-budget", "1KB"): "does not hold one trial's cache of 512 tokens",
    ("--format", "none"): "unknown thinking format 'none'",
}


@pytest.mark.usefixtures("one_thread", "no_picture")
def test_wrong_requests_change_nothing(
    tiny_folders: dict[str, Path], task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = flags(tiny_folders["llama"], task_file, out, "--limit", "1")
    assert main(given) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    for more, says in WRONG.items():
        assert main([*given, *more]) == 2
        printed = capsys.readouterr()
        assert re.search(says, printed.err), printed.err
        assert printed.err.count("\n") == 1
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    task_file.write_text(task_file.read_text().replace("17 + 25", "17 + 26"))
    assert main(given) == 2
    assert "another task under the id 'a'" in capsys.readouterr().err


def test_other_wrong_requests(tmp_path: Path, task_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, says in (
        ([str(task_file)], "-o DIR is missing"),
        (["aime-2023", "-o", str(tmp_path)], "there are no tasks 'aime-2023': give a file, or one of aime-2024, amc"),
        ([str(tmp_path / "none.jsonl"), "-o", str(tmp_path)], "none.jsonl cannot be read"),
        ([str(task_file), "-o", str(task_file)], "is a file: give the name of a directory"),
    ):
        assert main(["eval", *given]) == 2
        assert says in capsys.readouterr().err


def test_what_is_not_installed_is_named(
    tiny_folders: dict[str, Path],
    task_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_thread: None,
) -> None:
    given = flags(tiny_folders["llama"], task_file, tmp_path / "out", "--limit", "1")
    monkeypatch.setattr("minseek.evaluation.verifier.find_spec", lambda name: None)
    assert main(given) == 2
    assert "pip install math-verify" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(given) == 0
    assert "pip install matplotlib; the results are in" in capsys.readouterr().err
    assert (tmp_path / "out" / "summary.json").exists()
