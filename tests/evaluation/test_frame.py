"""`to_frame`: results of an evaluation as a pandas table."""

from __future__ import annotations

import builtins
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from minseek.batch.resume_state import ResumeState
from minseek.errors import InputError
from minseek.evaluation import EvalRecord, TrialPoint, to_frame
from minseek.evaluation.accuracy_cells import summarize
from minseek.evaluation.eval_file import EvalFileWriter, EvalResults
from minseek.evaluation.evaluation import EvalSummary

POINT = TrialPoint(0, 0, "5", True, 30, 20, 10, 40, 4000, 0.5, "thoughts", "end")
SETTINGS = {"model": "tiny", "thoughts": ["0", "2", "unbounded"]}


def records() -> list[EvalRecord]:
    """Two strategies, two tasks, and each number of thoughts; the seeds make answers right and wrong."""
    found = []
    for strategy in ("standard", "min-seek:keep=2"):
        for number, task in enumerate(("a", "ü")):
            grid = (0, 2, None) if strategy != "standard" else (0,)
            points = tuple(
                replace(POINT, thoughts=m, reached=m or 0, right=bool(number), answer=f"{m}\n") for m in grid
            )
            found.append(EvalRecord(strategy, grid[-1], task, "digest", number, points, generated=9, seconds=1.5))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with EvalFileWriter(tmp_path / "results.jsonl", EvalResults(earlier=ResumeState()), SETTINGS) as writer:
        for record in records():
            writer.write(record)
    return tmp_path


def test_a_row_for_every_answer() -> None:
    frame = to_frame(records())
    assert len(frame) == 8
    assert {"strategy", "task", "seed", *(field.name for field in fields(TrialPoint))} == set(frame.columns)
    wanted = [
        {"strategy": record.strategy, "task": record.task, "seed": record.seed, **asdict(point)}
        for record in records()
        for point in record.points
    ]
    for row, expected in zip(frame.to_dict("records"), wanted, strict=True):
        assert pd.isna(row["thoughts"]) == (expected["thoughts"] is None)
        rest = {name for name, value in expected.items() if value is not None}
        assert {name: row[name] for name in rest} == {name: expected[name] for name in rest}
    kinds = frame.dtypes
    assert (kinds["right"], kinds["seconds"], kinds["tokens"], str(kinds["thoughts"])) == (bool, float, int, "Int64")


def test_a_file_a_directory_and_a_summary_are_the_same_table(folder: Path) -> None:
    summary = EvalSummary(summarize(records()), records(), SETTINGS, None)
    wanted = to_frame(records())
    assert "settings" not in wanted.attrs
    for given in (folder, str(folder), folder / "results.jsonl", summary):
        frame = to_frame(given)
        pd.testing.assert_frame_equal(frame, wanted, check_flags=False)
        assert frame.attrs["settings"] == SETTINGS


def test_the_means_are_those_of_the_summary() -> None:
    means = to_frame(records()).groupby(["strategy", "thoughts"], dropna=False).right.mean()
    for cell in summarize(records()):
        thoughts = pd.NA if cell.thoughts is None else cell.thoughts
        assert means[cell.strategy].loc[thoughts] == cell.accuracy


def test_a_run_that_goes_on_or_was_killed(folder: Path) -> None:
    file = folder / "results.jsonl"
    file.write_bytes(file.read_bytes()[:-30])
    assert len(to_frame(folder)) == 5
    file.write_bytes(b"")
    assert list(to_frame(folder).columns) == list(to_frame([]).columns)
    assert len(to_frame(folder)) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"text\n", "line 1 of .* is not a result of minseek eval: give the results.jsonl"),
        (b'{"settings": 1}\n', "line 1 of"),
        (json.dumps({"settings": {}}).encode() + b'\n{"strategy": "a"}\n', "line 2 of .* is not a result"),
    ],
)
def test_what_holds_no_results(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=said):
        to_frame(tmp_path)


def test_pandas_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def imported(name: str, *args: Any, **options: Any) -> Any:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", imported)
    with pytest.raises(InputError, match="needs pandas, which is not installed: run pip install pandas"):
        to_frame(records())
