"""A file of results: the settings in its first line, then one line for every trial that has finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from minseek.batch.result_file import ResultFile, ResumeState
from minseek.errors import InputError
from minseek.evaluation.grid import Thoughts, Trial
from minseek.evaluation.points import Point, Record

_BEGINNINGS = (b'{"settings": ', b'{"strategy": ')


@dataclass
class Results:
    """What a file holds.

    Attributes
    ----------
    records : dict of Record
        By `Record.key`.
    earlier : ResumeState
        The bytes of its whole lines and of a torn one, for `ResultFile`.
    """

    records: dict[tuple[str, Thoughts, str, int], Record] = field(default_factory=dict)
    earlier: ResumeState = field(default_factory=ResumeState)

    def has(self, trial: Trial) -> bool:
        """Whether a trial has its line.

        Raises
        ------
        InputError
            If it has, but the task was another one then.
        """
        record = self.records.get(trial.key)
        if record is not None and record.digest != trial.task.digest:
            raise InputError(
                f"the results hold another task under the id {trial.task.id!r}: give another directory, or --overwrite"
            )
        return record is not None


def read_results(path: Path, settings: Mapping[str, Any]) -> Results:
    """What an earlier run has left in a file; nothing is changed.

    Raises
    ------
    InputError
        If the file holds anything else, or results of other settings; the first that differs is named.
    """
    results, settings = Results(), json.loads(json.dumps(settings))
    if not path.exists():
        return results
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            beginning = _BEGINNINGS[number > 1]
            if not raw.endswith(b"\n"):
                if raw[: len(beginning)] != beginning[: len(raw)]:
                    raise _foreign(path, number)
                results.earlier.torn = len(raw)
                break
            if number == 1:
                _compare(path, _object(raw, path, number).get("settings"), settings)
            else:
                record = _record(raw, path, number)
                results.records[record.key] = record
            results.earlier.whole += len(raw)
    return results


class Writer:
    """Appends records; a run that is killed leaves whole lines, and a part of one at most, which the next one cuts off.

    Parameters
    ----------
    results : Results
        What `read_results` found, or an empty one.
    overwrite : bool
        Begin the file anew.
    """

    def __init__(self, path: Path, results: Results, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self._file = ResultFile(path, results.earlier, overwrite=overwrite)
        if overwrite or not results.earlier.whole:
            self._file.write({"settings": dict(settings)})

    def write(self, record: Record) -> None:
        """Append a record."""
        self._file.write(record.as_dict())

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._file.__exit__(*exception)


def _compare(path: Path, then: Any, now: Mapping[str, Any]) -> None:
    """Refuse results of other settings."""
    if not isinstance(then, dict):
        raise _foreign(path, 1)
    for name in (*now, *then):
        if then.get(name) != now.get(name):
            raise InputError(
                f"{path} holds results with {name} {json.dumps(then.get(name))}, and now it is "
                f"{json.dumps(now.get(name))}: give another directory, or --overwrite to lose them"
            )


def _object(raw: bytes, path: Path, line: int) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _foreign(path, line)
    return value


def _record(raw: bytes, path: Path, line: int) -> Record:
    fields = _object(raw, path, line)
    try:
        points = tuple(Point(**{**point, "thoughts": _thoughts(point["thoughts"])}) for point in fields["points"])
        return Record(**{**fields, "thoughts": _thoughts(fields["thoughts"]), "points": points})
    except (TypeError, KeyError):
        raise _foreign(path, line) from None


def _thoughts(value: int | str) -> Thoughts:
    return None if isinstance(value, str) else value


def _foreign(path: Path, line: int) -> InputError:
    return InputError(
        f"line {line} of {path} is not a result of minseek bench, so nothing is added to that file: give another "
        "directory, or --overwrite to lose what it holds"
    )
