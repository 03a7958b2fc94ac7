"""Request file and result file of a run, checked before any model is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from minseek.batch.request_file import RequestFile
from minseek.batch.requests import InvalidRequest, Request, RequestDefaults, read_requests
from minseek.batch.result_file import RecordWriter, ResultFile, ResultStream, ResumeState, is_stream, read_resume_state
from minseek.batch.scan import FileSummary, scan_requests
from minseek.errors import InputError
from minseek.models import Model


class BatchFiles:
    """A request file and its result file, checked before any model is loaded.

    Parameters
    ----------
    requests, results : str or Path
        Paths; "-" is standard input and output.
    overwrite : bool
        Discard the results in the file instead of resuming it.

    Attributes
    ----------
    name : str
        Name of the request file, for messages.
    resume : ResumeState
        Contents of the result file.

    Raises
    ------
    InputError
        If a file cannot be read or written, or the result file holds anything but results.
    """

    def __init__(self, requests: str | Path, results: str | Path, *, overwrite: bool = False) -> None:
        self._results, self._overwrite = str(results), overwrite
        _check_paths(str(requests), self._results, overwrite)
        self._requests = RequestFile(str(requests))
        self.name = self._requests.name
        path = Path(results)
        starts_empty = overwrite or is_stream(self._results) or not path.exists()
        self.resume = ResumeState() if starts_empty else read_resume_state(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._requests.__exit__(kind, error, trace)

    def read(self, defaults: RequestDefaults) -> Iterator[Request | InvalidRequest]:
        """Yield the requests of the file, from the first one on."""
        return read_requests(self._requests.lines(), defaults)

    def scan(self, model: Model, defaults: RequestDefaults, *, lengths: bool) -> FileSummary:
        """Count the requests and, with `lengths`, measure the longest."""
        return scan_requests(model, self.read(defaults), self.resume, lengths=lengths)

    def open_results(self) -> AbstractContextManager[RecordWriter]:
        """Open the result file, or the stream, for writing."""
        if self._results == "-":
            return ResultStream(None)
        path = Path(self._results)
        if is_stream(self._results):
            return ResultStream(path)
        return ResultFile(path, self.resume, overwrite=self._overwrite)


def _check_paths(requests: str, results: str, overwrite: bool) -> None:
    """Refuse results that cannot be written, before anything is read."""
    if overwrite and is_stream(results):
        raise InputError(f"overwrite has no effect on {results!r}, which is no file: leave it out")
    if results == "-":
        return
    path = Path(results)
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the name of a file for the results")
    if not path.exists() and not path.parent.is_dir():
        raise InputError(f"there is no directory {path.parent} for {path.name}: make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: Permission denied")
    if requests != "-" and path.exists() and Path(requests).exists() and path.samefile(requests):
        raise InputError(f"{requests} and {path} are the same file: give another one for the results")
