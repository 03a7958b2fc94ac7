"""Contents of a result file that a run resumes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minseek.batch.gzip_lines import GzipReader
from minseek.batch.requests import InvalidRequest, Request
from minseek.errors import InputError, is_instance

_BEGINNING = b'{"id": '  # beginning of every record


@dataclass
class ResumeState:
    """Contents of a result file that a run resumes.

    Attributes
    ----------
    ids : dict
        Ids of requests that have a result, in the file's order; True for an error record.
    lines : set of int
        Numbers of input lines with an error record but no id of their own: without an id, or with that of another line.
    retried : int
        Error records that are dropped, because their requests are tried again.
    whole, torn : int
        Bytes of whole lines, and of an incomplete last line that a killed run left.
    rewrite : bool
        The file cannot be continued as it is: error records are dropped, or it is a gzip file without its end.
    """

    ids: dict[str | int, bool] = field(default_factory=dict)
    lines: set[int] = field(default_factory=set)
    retried: int = 0
    whole: int = 0
    torn: int = 0
    rewrite: bool = False

    @property
    def failed(self) -> int:
        """Number of error records."""
        return sum(self.ids.values()) + len(self.lines)

    def has(self, item: Request | InvalidRequest) -> bool:
        """Return True if a request has a result."""
        if isinstance(item, InvalidRequest) and (item.id is None or item.code == "duplicate_id"):
            return item.line in self.lines
        return item.id in self.ids

    def has_failed(self, item: Request | InvalidRequest) -> bool:
        """Return True if the result of a request is an error."""
        if isinstance(item, InvalidRequest) and (item.id is None or item.code == "duplicate_id"):
            return item.line in self.lines
        return item.id is not None and self.ids.get(item.id, False)


def read_resume_state(path: Path, *, retry_failed: bool = False) -> ResumeState:
    """Read what an earlier run has written.

    Parameters
    ----------
    retry_failed : bool
        Leave out error records, so that their requests are tried again.

    Raises
    ------
    InputError
        If the file holds anything but result records, so that nothing may be appended to it.
    """
    state, reader = ResumeState(), GzipReader(path) if path.name.endswith(".gz") else None
    number = 0
    try:
        for number, raw in enumerate(_lines(path) if reader is None else reader.lines(), start=1):
            if not raw.endswith(b"\n"):
                if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
                    raise _foreign(path, number)
                state.torn = len(raw)
                break
            record = _record(raw)
            if record is None:
                raise _foreign(path, number)
            state.whole += len(raw)
            _add(state, record, retry_failed)
    except zlib.error:
        raise _foreign(path, number + 1) from None
    if reader is not None:
        state.whole, state.rewrite = path.stat().st_size - state.torn, not reader.complete
    state.rewrite = state.rewrite or bool(state.retried)
    return state


def kept_lines(path: Path, *, with_errors: bool) -> Iterator[bytes]:
    """Yield the whole lines of a result file that was accepted, with or without error records."""
    for raw in GzipReader(path).lines() if path.name.endswith(".gz") else _lines(path):
        if raw.endswith(b"\n") and (with_errors or json.loads(raw).get("error") is None):
            yield raw


def _add(state: ResumeState, record: dict[str, Any], retry_failed: bool) -> None:
    name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
    if error is not None and retry_failed:
        state.retried += 1
    elif error is not None and (name is None or error.get("code") == "duplicate_id"):
        state.lines.add(record["line"])
    else:
        state.ids[name] = error is not None


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from stream


def _record(raw: bytes) -> dict[str, Any] | None:
    """Parse a line as a result record; None if it is something else."""
    try:
        record = json.loads(raw.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or "id" not in record:
        return None
    name, error = record["custom_id"] if "custom_id" in record else record["id"], record.get("error")
    if not is_instance(name, (str, int, type(None))):
        return None
    if error is None:
        return record if name is not None and record.keys() & {"text", "choices", "response"} else None
    return record if isinstance(error, dict) and isinstance(record.get("line"), int) else None


def _foreign(path: Path, line: int) -> InputError:
    return InputError(
        f"line {line} of {path} is not a result of minseek batch, so nothing is added to that file: give another one, "
        "or --overwrite to discard its contents"
    )
