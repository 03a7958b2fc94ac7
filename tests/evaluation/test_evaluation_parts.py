"""Tasks, checked answers, grids, result files, intervals, the picture: all that needs no model."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from minseek import BudgetForcing, MinSeek, Standard
from minseek.cli.eval import parse_seeds, parse_thoughts
from minseek.errors import InputError
from minseek.evaluation.accuracy_cells import summarize
from minseek.evaluation.accuracy_plot import draw_accuracy
from minseek.evaluation.checking import is_correct
from minseek.evaluation.eval_file import EvalFileWriter, EvalResults, read_eval_results
from minseek.evaluation.eval_records import EvalRecord, TrialPoint
from minseek.evaluation.hub import BOXED, LETTER, NAMED_SETS, load_named
from minseek.evaluation.intervals import Bootstrap, paired_interval, share_interval, wilson
from minseek.evaluation.tasks import Task, read_tasks
from minseek.evaluation.thought_counts import PAPER_THOUGHTS
from minseek.evaluation.trials import Trial, expand_trials
from minseek.evaluation.variants import parse_strategies, parse_strategy
from minseek.evaluation.verifier import Verifier

POINT = TrialPoint(0, 0, "5", True, 30, 20, 10, 40, 4000, 0.5, "thoughts", "end")


def record(strategy: str = "min-seek", task: str = "a", seed: int = 0, right: tuple[bool, ...] = (True,)) -> EvalRecord:
    points = tuple(replace(POINT, thoughts=n, reached=n, right=good, tokens=30 + n) for n, good in enumerate(right))
    return EvalRecord(strategy, points[-1].thoughts, task, "digest", seed, points, generated=99, seconds=1.5)


# --- tasks


def test_tasks_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"id": "a", "question": "1+1", "answer": "2"}\n\n'
        b'{"id": 7, "prompt": "2.5*2", "answer": 5, "kind": "product"}\r\n'
        b'{"id": "c", "question": "Which?", "answer": "B", "choices": ["x", "y"]}'
    )
    a, b, c = read_tasks(file)
    assert a == Task("a", "1+1", "2")
    assert (b.id, b.answer, b.kind) == ("7", "5", "product")
    assert c.choices == ("x", "y")
    assert len({task.digest for task in (a, b, c, replace(a, answer="3"), replace(a, question="1 + 1"))}) == 5


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": 1, "prompt": "p"}', "line 2 of .* has no 'answer': every task needs one"),
        ('{"id": 1, "prompt": "p", "answer"', "line 2 of .* is not JSON"),
        ('["id"]', r"line 2 of .* must be an object .* not \[\"id\"\]"),
        ('{"id": 1, "question": " ", "answer": "2"}', "'question' in line 2 of .* must be a text that is not empty"),
        ('{"id": 1, "prompt": 3, "answer": "2"}', "'question' in line 2 of .* not 3"),
        ('{"id": 1, "prompt": "p", "answer": true}', "'answer' in line 2 of .* not true"),
        ('{"id": 1, "prompt": "p", "answer": "2", "solution": "x"}', "line 2 of .* has a field 'solution'"),
        ('{"id": 1, "prompt": "p", "answer": "C", "choices": ["x", "y"]}', "letter of one of 2 choices, not 'C'"),
        ('{"id": 1, "prompt": "p", "answer": "A", "choices": "xy"}', "choices in line 2 of .* must be a list"),
        ('{"id": "a", "prompt": "p", "answer": "2"}', "two tasks of .* have the id 'a'"),
        (b"\xff", "line 2 of .* is not JSON"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    file = tmp_path / "tasks.jsonl"
    line = line.encode() if isinstance(line, str) else line
    file.write_bytes(b'{"id": "a", "prompt": "1+1", "answer": "2"}\n' + line + b"\n")
    with pytest.raises(InputError, match=says) as raised:
        read_tasks(file)
    assert "\n" not in str(raised.value)


def test_files_without_tasks(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no task: write one"):
        read_tasks(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_tasks(tmp_path / "none.jsonl")


# --- data sets by name

ROWS: dict[str, dict[str, Any]] = {
    "aime-2024": {"id": 60, "problem": "Find x.", "solution": "…", "answer": "033", "url": "u", "year": "2024"},
    "math-500": {"problem": "Find x.", "answer": "\\frac{1}{2}", "subject": "Algebra", "unique_id": "test/1.json"},
    "amc": {"id": 3, "problem": "Find x.", "answer": 142.0, "url": "u"},
    "gpqa-diamond": {
        "Record ID": "rec1",
        "Question": "Which gas? ",
        "Correct Answer": "argon\n",
        "Incorrect Answer 1": "neon",
        "Incorrect Answer 2": "xenon",
        "Incorrect Answer 3": "radon",
        "High-level domain": "Chemistry",
    },
    "mmlu-pro": {
        "question_id": 70,
        "question": "Which?",
        "options": ["p", "q", "N/A", "N/A"],
        "answer": "B",
        "answer_index": 1,
        "category": "law",
    },
}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A package ``datasets`` that gives one row of each set, and its requests."""
    requested: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None = None, *, split: str) -> list[dict[str, Any]]:
        requested.append((path, name, split))
        return [ROWS[next(key for key, known in NAMED_SETS.items() if known.hub_id == path)]]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return requested


def test_named_sets_become_tasks(fetched: list[tuple[Any, ...]]) -> None:
    tasks = {name: load_named(name)[0] for name in NAMED_SETS}
    assert fetched == [
        ("HuggingFaceH4/aime_2024", None, "train"),
        ("HuggingFaceH4/MATH-500", None, "test"),
        ("AI-MO/aimo-validation-amc", None, "train"),
        ("Idavidrein/gpqa", "gpqa_diamond", "train"),
        ("TIGER-Lab/MMLU-Pro", None, "test"),
    ]
    assert tasks["aime-2024"] == Task("60", f"Find x.\n\n{BOXED}", "033")
    assert tasks["math-500"] == Task("test/1.json", f"Find x.\n\n{BOXED}", "\\frac{1}{2}", "Algebra")
    assert tasks["amc"].answer == "142"
    assert tasks["mmlu-pro"] == Task("70", f"Which?\n\nA) p\nB) q\n\n{LETTER}", "B", "law", ("p", "q"))
    gpqa = tasks["gpqa-diamond"]
    assert gpqa.choices["ABCD".index(gpqa.answer)] == "argon"
    assert f"{gpqa.answer}) argon\n" in gpqa.question
    assert load_named("gpqa-diamond")[0] == gpqa  # the same order in every run


def test_choices_are_shuffled_by_question(monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[Any, ...]]) -> None:
    rows = [ROWS["gpqa-diamond"] | {"Record ID": f"rec{n}"} for n in range(40)]
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *_, **__: rows)
    assert {task.answer for task in load_named("gpqa-diamond")} == set("ABCD")


def test_sets_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, fetched: list[tuple[Any, ...]]) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to the Hub\nand more lines")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", refuse)
    with pytest.raises(InputError, match=r"gpqa.* cannot be fetched; its terms must .*: no route to the Hub$"):
        load_named("gpqa-diamond")
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", lambda *_, **__: [{"problem": "p"}])
    with pytest.raises(InputError, match="has no column 'id': it has changed"):
        load_named("aime-2024")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        load_named("amc")


# --- checking


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("so it is \\boxed{42}.", "42", True),
        ("\\boxed{41} or rather \\boxed{42}", "42", True),
        ("\\boxed{42} or rather \\boxed{41}", "42", False),
        ("Final answer: 42.", "42", True),
        ("42", "42", True),
        ("43", "42", False),
        ("\\boxed{+42.0}", "42", True),
        ("\\boxed{-42}", "42", False),
        ("\\boxed{042}", "42", True),
        ("", "42", False),
        ("\\boxed{}", "0", False),
        ("\\boxed{0.5}", "\\frac{1}{2}", True),
        ("\\boxed{\\dfrac12}", "\\frac{1}{2}", True),
        ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}", True),
        ("\\boxed{(x+1)^2}", "x^2+2x+1", True),
        ("\\boxed{x^2+2x}", "x^2+2x+1", False),
        ("\\boxed{7\\text{ cm}}", "7", True),
        ("\\boxed{1{,}234}", "1234", True),
        ("The result is $\\frac{3}{4}$.", "0.75", True),
        ("\\boxed{\\text{Evelyn}}", "evelyn", True),
        ("\\boxed{Silent}", "listen", False),  # letters are no factors
        ("\\boxed{3 2 1}", "1 2 3", False),  # numbers in a row are no sum
        ("\\boxed{1 2 3}", "6", False),
        ("\\boxed{6}", "1 2 3", False),
        ("\\boxed{1  2 3}", "1 2 3", True),
        ("\\boxed{-3 -4}", "-3 -4", True),
        ("\\boxed{7}", "-3 -4", False),
        ("\\boxed{\\frac{1}{2006!}}", "\\frac{1}{2004!}", False),
        ("\\boxed{1/2004!}", "\\frac{1}{2004!}", True),
        ("\\boxed{1/2^{98}}", "1/2^{99}", False),
        ("\\boxed{2^{-99}}", "1/2^{99}", True),
        ("\\boxed{e^{-301}}", "e^{-300}", False),
        ("\\boxed{e^{-150}e^{-150}}", "e^{-300}", True),
        ("\\boxed{0.0000002}", "10^{-7}", False),
        ("\\boxed{0.0000001}", "10^{-7}", True),
        ("\\boxed{\\{1/2^{98},3\\}}", "\\{1/2^{99},3\\}", False),
        ("\\boxed{\\{3,2^{-99}\\}}", "\\{1/2^{99},3\\}", True),
        ("\\boxed{(0,1/2^{98})}", "(0,1/2^{99})", False),
        ("\\boxed{x=1/2^{98}}", "x=1/2^{99}", False),
        ("\\boxed{\\sqrt{5+2\\sqrt{6}}-\\sqrt{3}}", "\\sqrt{2}", True),
        ("\\boxed{\\sqrt{2}+10^{-20}}", "\\sqrt{2}", False),
        ("\\boxed{10^{40}+1}", "10^{40}", False),
        ("\\boxed{0.333333}", "\\frac{1}{3}", True),
        ("\\boxed{0.33}", "\\frac{1}{3}", False),
        ("\\boxed{1.414214}", "\\sqrt{2}", True),
        ("\\boxed{9\\%}", "9", True),
        ("\\boxed{empty}", "empty", True),
        ("\\boxed{\\left(1,2\\right)}", "(1,2)", True),
        ("\\boxed{\\frac{1}{", "1", False),
        ("\\boxed{" * 200, "1", False),
        ("\x00\udce9{}}}$$\\\\", "1", False),
        ("9" * 5000, "9", False),
    ],
)
def test_answers(answer: str, expected: str, right: bool) -> None:
    assert is_correct(answer, expected) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("\\boxed{C}", True),
        ("\\boxed{(C)}", True),
        ("\\boxed{\\text{C}}", True),
        ("\\boxed{C. Paris}", True),
        ("\\boxed{c}", True),
        ("C) Paris", True),
        ("After all of this the answer is (C).", True),
        ("**Answer:** C", True),
        ("The answer is A. No: the answer is C", True),
        ("\\boxed{B}", False),
        ("\\boxed{Paris}", False),
        ("\\boxed{E}", False),
        ("A good question", False),
        ("", False),
    ],
)
def test_choices(answer: str, right: bool) -> None:
    assert is_correct(answer, "C", choices=4) is right


def test_checks_run_in_threads() -> None:
    found: list[bool] = []

    def check(n: int) -> None:
        found.append(is_correct(f"\\boxed{{{n}/2}}", f"{n / 2}"))

    threads = [threading.Thread(target=check, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


@pytest.mark.slow
def test_an_expression_without_end_is_given_up() -> None:
    verifier = Verifier(seconds=1.5)
    try:
        assert verifier.equal("$2$", "\\boxed{1+1}")
        began = time.perf_counter()
        assert not verifier.equal("$2$", "\\boxed{9^{9^{9^{9}}}}")
        assert time.perf_counter() - began < 30
        assert verifier.equal("$3$", "\\boxed{1+2}")  # by another process
    finally:
        verifier.close()


# --- grids


def test_strategies_as_they_are_spelled() -> None:
    variant = parse_strategy("min-seek:rule=random,keep=2")
    assert str(variant.strategy(4)) == str(parse_strategy("min-seek:keep=2,rule=random").strategy(4))
    assert (variant.strategy(4).thoughts, variant.strategy(None).thoughts) == (4, None)
    assert variant.runs((0, 2, None)) == [(None, (0, 2, None))]
    assert parse_strategy("standard").runs((2, 4)) == [(0, (0,))]
    assert parse_strategy("min-seek:answer=final-thought").runs((0, 2)) == [(0, (0,)), (2, (2,))]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-seek", "unknown strategy 'max-seek': choose min-seek, fresh, budget-forcing, standard"),
        ("min-seek:thoughts=3", "cannot read 'thoughts=3'"),
        ("min-seek:rule", "cannot read 'rule' in the strategy 'min-seek:rule': min-seek takes option=value with keep"),
        ("standard:keep=2", "standard takes no options"),
        ("min-seek:keep=0", "keep must be 1 or more, not 0"),
        ("min-seek:rule=best", "unknown rule 'best'"),
        ("min-seek:keep=1,keep=2", "gives keep twice"),
    ],
)
def test_wrong_strategies(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        parse_strategy(text)
    assert "thinking." not in str(raised.value)


def test_lists_of_numbers() -> None:
    assert parse_thoughts("4, 0,unbounded,2,4") == (4, 0, None, 2, 4)
    assert parse_thoughts("0,2,4,6,10,20,50,100,unbounded") == PAPER_THOUGHTS
    assert parse_seeds("3,1") == (3, 1)
    for wrong in ("", "1,", "-1", "many"):
        with pytest.raises(InputError, match="numbers of thoughts are given as"):
            parse_thoughts(wrong)
    for wrong, says in (("", "not ''"), ("a", "not 'a'"), ("1,1", "each seed can be given once")):
        with pytest.raises(InputError, match=says):
            parse_seeds(wrong)
    with pytest.raises(InputError, match="'min-seek:keep=2,rule=latest' is given twice"):
        parse_strategies(["min-seek:rule=latest,keep=2", "min-seek:keep=2,rule=latest"])


def test_strategies_as_objects() -> None:
    given = [MinSeek(3, keep=2, rule="random"), BudgetForcing(vote=True), Standard(), "min-seek"]
    names = [variant.name for variant in parse_strategies(given)]
    assert names == ["min-seek:keep=2,rule=random", "budget-forcing:vote=true", "standard", "min-seek"]
    for strategy, variant in zip(given[:3], parse_strategies(given), strict=False):
        assert parse_strategy(variant.name).strategy(7) == variant.strategy(7)
        assert isinstance(strategy, Standard) or variant.strategy(7) == replace(strategy, thoughts=7)  # type: ignore
    with pytest.raises(InputError, match="'min-seek' is given twice"):
        parse_strategies(["min-seek", MinSeek(5)])
    with pytest.raises(TypeError, match="a strategy is a name or a Strategy, not 3"):
        parse_strategies([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="there is no strategy"):
        parse_strategies([])


def test_trials_cover_the_grid() -> None:
    variants = parse_strategies(["standard", "min-seek", "min-seek:answer=final-thought"])
    tasks = [Task("a", "p", "1"), Task("b", "q", "2")]
    found = list(expand_trials(variants, (0, 2, None), (0, 5), tasks))
    assert len(found) == len({trial.key for trial in found}) == 2 * 2 * (1 + 1 + 3)
    assert found[0].task is tasks[0]
    assert found[4].points == (None,)


# --- files of results

SETTINGS = {"model": "m", "temperature": 0.6, "thoughts": [0, 1]}


def trial(task: str = "a") -> Trial:
    return Trial(parse_strategy("min-seek"), 1, (0, 1), Task(task, "p", "1"), 0)


def test_results_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    written = [record(task="a", right=(True, False)), replace(record(task="b"), thoughts=None)]
    for each in written:  # each by a run of its own
        with EvalFileWriter(file, read_eval_results(file, SETTINGS), SETTINGS) as out:
            out.write(each)
    results = read_eval_results(file, SETTINGS)
    assert list(results.records.values()) == written
    assert len(file.read_text().splitlines()) == 3


def test_a_torn_line_is_cut_off_wherever_the_run_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with EvalFileWriter(file, EvalResults(), SETTINGS) as out:
        out.write(record(task="a"))
        out.write(record(task="b"))
    whole = file.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(0, len(whole) + 1, 7):
        file.write_bytes(whole[:size])
        results = read_eval_results(file, SETTINGS)
        assert len(results.records) == max(0, sum(end <= size for end in ends) - 1)
        with EvalFileWriter(file, results, SETTINGS) as out:
            for name in "ab":
                if not results.records.keys() & {record(task=name).key}:
                    out.write(record(task=name))
        assert file.read_bytes() == whole


def test_files_that_are_not_continued(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with EvalFileWriter(file, EvalResults(), SETTINGS) as out:
        out.write(record())
    with pytest.raises(InputError, match=r"holds results with temperature 0\.6, and now it is 0\.8: give another"):
        read_eval_results(file, SETTINGS | {"temperature": 0.8})
    with pytest.raises(InputError, match="another task under the id 'a'"):
        read_eval_results(file, SETTINGS).has(replace(trial(), thoughts=0))
    assert not read_eval_results(file, SETTINGS).has(trial("c"))
    before = file.read_bytes()
    for wrong in (b'{"id": 1}\n', b"notes\n", b"notes", before + b"{}\n", before + b'{"strategy": "x"}\n', b"[]\n"):
        file.write_bytes(wrong)
        with pytest.raises(InputError, match="is not a result of minseek eval"):
            read_eval_results(file, SETTINGS)
        assert file.read_bytes() == wrong
    with EvalFileWriter(file, EvalResults(), SETTINGS, overwrite=True) as out:
        out.write(record())
    assert file.read_bytes() == before


# --- intervals


@pytest.mark.parametrize(("right", "of"), [(0, 10), (1, 10), (8, 10), (10, 10), (263, 500), (1, 1)])
def test_wilson_is_scipys(right: int, of: int) -> None:
    oracle = binomtest(right, of).proportion_ci(method="wilson")
    assert wilson(right, of) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.slow
def test_the_bootstrap_covers_the_truth_where_tries_of_a_task_hang_together() -> None:
    rng, covered, naive = np.random.default_rng(1), 0, 0
    for _ in range(200):
        difficulty = rng.beta(0.5, 0.5, size=80)  # most tasks are always or never solved; the mean is 1/2
        right, tries = rng.binomial(5, difficulty).astype(float), np.full(80, 5.0)
        low, high = share_interval(right, tries, Bootstrap(80, seed=2, samples=1000))
        covered += low <= 0.5 <= high
        low, high = wilson(float(right.sum()), 400)
        naive += low <= 0.5 <= high
    assert 0.90 <= covered / 200 <= 0.985
    assert naive / 200 < 0.85  # what taking all tries for independent would do


def test_intervals_never_lose_their_width() -> None:
    always = np.array([3.0, 3.0, 3.0, 3.0])
    assert share_interval(always, always, Bootstrap(4)) == wilson(4, 4)
    assert share_interval(np.array([1.0, 0.0]), np.ones(2), Bootstrap(2)) == wilson(1, 2)


@pytest.mark.parametrize(("up", "down", "contains"), [(4, 0, True), (0, 0, True), (0, 5, True), (30, 5, False)])
def test_few_changed_answers_prove_nothing(up: int, down: int, contains: bool) -> None:
    gains = np.array([1.0] * up + [-1.0] * down + [0.0] * (500 - up - down))
    low, high = paired_interval(gains, np.ones(500), Bootstrap(500))
    assert low < (up - down) / 500 < high
    assert (low <= 0 <= high) == contains
    turned = paired_interval(-gains, np.ones(500), Bootstrap(500))
    assert turned == pytest.approx((-high, -low))
    assert contains == (up + down == 0 or binomtest(up, up + down).pvalue > 0.05)


def test_intervals_of_paired_shares_cover_the_truth() -> None:
    rng, covered = np.random.default_rng(3), {(0.02, 0.0): 0, (0.06, 0.02): 0, (0.3, 0.2): 0}
    for up, down in covered:
        for _ in range(400):
            gains = rng.choice([1.0, -1.0, 0.0], size=200, p=[up, down, 1 - up - down])
            low, high = paired_interval(gains, np.ones(200), Bootstrap(200, samples=2))
            covered[up, down] += low <= up - down <= high
    assert all(count / 400 >= 0.93 for count in covered.values()), covered


def test_several_tries_of_a_task_are_drawn_together() -> None:
    gains, tries = np.array([2.0, 1.0, -1.0, 0.0] * 20), np.full(80, 2.0)
    assert paired_interval(gains, tries, Bootstrap(80)) == Bootstrap(80).ratio(gains, tries)
    assert paired_interval(0 * gains, tries, Bootstrap(80))[1] > 0


# --- summary and picture


def test_cells_are_means_and_paired_differences() -> None:
    records = [record(task=str(n), seed=seed, right=(n % 2 == 0, True)) for n in range(40) for seed in (0, 1)]
    records += [record("standard", task=str(n), right=(False,)) for n in range(40)]
    zero, one, standard = summarize(records)
    assert [(c.strategy, c.thoughts) for c in (zero, one, standard)] == [
        ("min-seek", 0),
        ("min-seek", 1),
        ("standard", 0),
    ]
    assert (zero.accuracy, one.accuracy, standard.accuracy) == (0.5, 1.0, 0.0)
    assert (one.tasks, one.tries, one.tokens, one.kv_bytes_peak, one.seconds) == (40, 80, 31, 4000, 0.5)
    assert one.difference == 0.5
    assert one.difference_interval is not None
    assert 0.3 < one.difference_interval[0] < 0.5 < one.difference_interval[1] < 0.7
    assert (one.repaired, one.spoiled) == (40, 0)
    assert one.normalized == 2.0
    assert one.interval == wilson(40, 40)
    assert standard.normalized is None
    assert standard.difference == 0.0


def test_the_baseline_is_standard_where_the_grid_has_no_zero() -> None:
    late = [replace(record(task=str(n), right=(True, True)), points=(replace(POINT, thoughts=None),)) for n in range(4)]
    cell, _ = summarize([*late, *(record("standard", task=str(n), right=(n > 0,)) for n in range(4))])
    assert cell.thoughts is None
    assert cell.difference == 0.25
    alone = summarize(late)[0]
    assert alone.difference is alone.normalized is None


def test_what_a_limit_cut_short_is_counted() -> None:
    short = replace(POINT, thoughts=50, reached=9, ended_by="context")
    cells = summarize([replace(record(), points=(POINT, short)), replace(record(task="b"), points=(POINT,))])
    assert [cell.cut_short for cell in cells] == [0.0, 1.0]
    assert [cell.reached for cell in cells] == [POINT.reached, 9]
    stable = replace(POINT, thoughts=50, reached=9, ended_by="stable", answer_ended_by="answer-tokens")
    (cell,) = summarize([replace(record(), points=(stable,))])
    assert (cell.cut_short, cell.answers_cut) == (0.0, 1.0)


@pytest.mark.slow
def test_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(task=str(n), right=(n % 2 == 0, True, False)) for n in range(8)]
    records += [record("standard", task=str(n), right=(n > 3,)) for n in range(8)]
    files = [tmp_path / "a.svg", tmp_path / "a.png"]
    draw_accuracy(summarize(records), files, "a title")
    drawn = files[0].read_bytes()
    text = drawn.decode()
    assert all(
        word in text for word in ("accuracy, %", "generated tokens", "peak cache", "seconds", "min-seek", "a title")
    )
    assert files[1].read_bytes().startswith(b"\x89PNG")
    draw_accuracy(summarize(records), files, "a title")
    assert files[0].read_bytes() == drawn
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        draw_accuracy(summarize(records), files)


def test_settings_are_json_as_they_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    settings = {"thoughts": (0, None), "top_k": None}  # a tuple comes back as a list
    with EvalFileWriter(file, EvalResults(), settings) as out:
        out.write(record())
    assert read_eval_results(file, settings).records
    assert json.loads(file.read_text().splitlines()[0])["settings"] == {"thoughts": [0, None], "top_k": None}
