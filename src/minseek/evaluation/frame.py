"""Results of an evaluation as a pandas table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseek.errors import InputError
from minseek.evaluation.eval_file import read_records
from minseek.evaluation.eval_records import EvalRecord
from minseek.evaluation.evaluation import EvalSummary

if TYPE_CHECKING:
    from pandas import DataFrame

RESULTS = "results.jsonl"
_COLUMNS = {
    **{"strategy": "str", "task": "str", "seed": "int64", "thoughts": "Int64", "reached": "int64"},
    **{"answer": "str", "right": "bool", "tokens": "int64", "thinking_tokens": "int64", "answer_tokens": "int64"},
    **{"kv_tokens_peak": "int64", "kv_bytes_peak": "int64", "seconds": "float64"},
    **{"ended_by": "str", "answer_ended_by": "str"},
}


def to_frame(results: str | PathLike[str] | EvalSummary | Iterable[EvalRecord]) -> DataFrame:
    """Return a row for every answer: each number of thoughts of each task, seed and strategy.

    Parameters
    ----------
    results : path, EvalSummary or iterable of EvalRecord
        What `evaluate` returns, its records, the file ``results.jsonl``, or the directory that ``minseek eval -o`` has
        written. A file of a run that still goes on, or was killed, gives the trials that have finished.

    Returns
    -------
    DataFrame
        Columns ``strategy``, ``task``, ``seed``, and those of `minseek.evaluation.TrialPoint`. ``thoughts`` is missing
        (``<NA>``) where it is unbounded. ``attrs["settings"]`` are the settings of the evaluation, if they are known.

    Raises
    ------
    InputError
        If pandas is not installed, or the file holds anything but results.

    Examples
    --------
    >>> frame = to_frame("out")  # doctest: +SKIP
    >>> frame.groupby(["strategy", "thoughts"]).right.mean()  # doctest: +SKIP
    """
    try:
        import pandas as pd
    except ImportError:
        raise InputError("a table needs pandas, which is not installed: run pip install pandas") from None
    settings: dict[str, Any] | None = None
    if isinstance(results, (str, PathLike)):
        path = Path(results)
        settings, records = read_records(path / RESULTS if path.is_dir() else path)
    elif isinstance(results, EvalSummary):
        settings, records = results.settings, results.records
    else:
        records = list(results)
    rows = [
        {"strategy": record.strategy, "task": record.task, "seed": record.seed, **asdict(point)}
        for record in records
        for point in record.points
    ]
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    if settings is not None:
        frame.attrs["settings"] = settings
    return frame
