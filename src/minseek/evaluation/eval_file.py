"""A result file of JSON lines: the settings first, then one line for every finished trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from minseek.batch.result_file import ResultFile
from minseek.batch.resume_state import ResumeState
from minseek.errors import InputError
from minseek.evaluation.eval_records import EvalRecord, TrialPoint
from minseek.evaluation.thought_counts import Thoughts
from minseek.evaluation.trials import Trial

_LINE_STARTS = (b'{"settings": ', b'{"strategy": ')


@dataclass
class EvalResults:
    """Contents of a result file.

    Attributes
    ----------
    records : dict of EvalRecord
        By `EvalRecord.key`.
    earlier : ResumeState
        Bytes of the whole lines and of an incomplete last one, for `ResultFile`.
    """

    records: dict[tuple[str, Thoughts, str, int], EvalRecord] = field(default_factory=dict)
    earlier: ResumeState = field(default_factory=ResumeState)

    def has(self, trial: Trial) -> bool:
        """True if a trial has its line.

        Raises
        ------
        InputError
            If the line was written for another task with the same id.
        """
        record = self.records.get(trial.key)
        if record is not None and record.digest != trial.task.digest:
            raise InputError(
                f"the results hold another task under the id {trial.task.id!r}: give another file, or overwrite it"
            )
        return record is not None


def read_eval_results(path: Path, settings: Mapping[str, Any]) -> EvalResults:
    """Read the results of an earlier run; the file is not changed.

    Raises
    ------
    InputError
        If the file holds anything else, or results of other settings; the first that differs is named.
    """
    results, settings = EvalResults(), json.loads(json.dumps(settings))
    if not path.exists():
        return results
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            start = _LINE_STARTS[number > 1]
            if not raw.endswith(b"\n"):
                if raw[: len(start)] != start[: len(raw)]:
                    raise _not_ours(path, number)
                results.earlier.torn = len(raw)
                break
            if number == 1:
                _check_settings(path, _parse_object(raw, path, number).get("settings"), settings)
            else:
                record = _parse_record(raw, path, number)
                results.records[record.key] = record
            results.earlier.whole += len(raw)
    return results


def read_records(path: Path) -> tuple[dict[str, Any], list[EvalRecord]]:
    """Read the settings and the records of a result file, whatever the settings are.

    Raises
    ------
    InputError
        If there is no such file, or it holds anything else.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last end of a line was cut off
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not lines:
        return {}, []
    try:
        settings = _parse_object(lines[0], path, 1).get("settings")
        if not isinstance(settings, dict):
            raise _not_ours(path, 1)
        return settings, [_parse_record(line, path, number) for number, line in enumerate(lines[1:], start=2)]
    except InputError as error:
        what = str(error).partition(",")[0]
        raise InputError(f"{what}: give the results.jsonl of an evaluation, or its directory") from None


class EvalFileWriter:
    """Appends records to a result file.

    A killed run leaves whole lines and at most one incomplete line, which the next run removes.

    Parameters
    ----------
    path : Path or None
        The file; None writes nothing.
    results : EvalResults
        Contents of the file, from `read_eval_results`.
    overwrite : bool
        Discard the contents.
    """

    def __init__(
        self, path: Path | None, results: EvalResults, settings: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        self._file = None if path is None else ResultFile(path, results.earlier, overwrite=overwrite)
        if self._file is not None and (overwrite or not results.earlier.whole):
            self._file.write({"settings": dict(settings)})

    def write(self, record: EvalRecord) -> None:
        """Append a record."""
        if self._file is not None:
            self._file.write(record.as_dict())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._file is not None:
            self._file.__exit__(*exception)


def _check_settings(path: Path, then: Any, now: Mapping[str, Any]) -> None:
    """Refuse results of other settings."""
    if not isinstance(then, dict):
        raise _not_ours(path, 1)
    for name in (*now, *then):
        if then.get(name) != now.get(name):
            raise InputError(
                f"{path} holds results with {name} {json.dumps(then.get(name))}, and now it is "
                f"{json.dumps(now.get(name))}: give another file, or overwrite it to lose them"
            )


def _parse_object(raw: bytes, path: Path, line: int) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _not_ours(path, line)
    return value


def _parse_record(raw: bytes, path: Path, line: int) -> EvalRecord:
    fields = _parse_object(raw, path, line)
    try:
        points = tuple(
            TrialPoint(**{**point, "thoughts": _parse_thoughts(point["thoughts"])}) for point in fields["points"]
        )
        return EvalRecord(**{**fields, "thoughts": _parse_thoughts(fields["thoughts"]), "points": points})
    except (TypeError, KeyError):
        raise _not_ours(path, line) from None


def _parse_thoughts(value: int | str) -> Thoughts:
    return None if isinstance(value, str) else value


def _not_ours(path: Path, line: int) -> InputError:
    return InputError(
        f"line {line} of {path} is not a result of minseek eval, so nothing is added to that file: give another "
        "file, or overwrite it to lose its contents"
    )
