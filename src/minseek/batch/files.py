"""Request file and result file of a run, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from minseek.batch.request_file import RequestFile
from minseek.batch.requests import InvalidRequest, Request, RequestDefaults, read_requests
from minseek.batch.result_file import RecordWriter, ResultFile, ResultStream, is_stream
from minseek.batch.resume_state import ResumeState, read_resume_state
from minseek.batch.scan import FileSummary, scan_requests
from minseek.errors import InputError
from minseek.files import check_output_file
from minseek.models import Model


class BatchFiles:
    """A request file and its result file, checked before any model is loaded.

    Parameters
    ----------
    requests, results : str or Path
        Paths; "-" is standard input and output.
    overwrite : bool
        Discard the results in the file instead of resuming it.
    retry_failed : bool
        Try requests again whose result is an error.

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

    def __init__(
        self, requests: str | Path, results: str | Path, *, overwrite: bool = False, retry_failed: bool = False
    ) -> None:
        self._results, self._overwrite = str(results), overwrite
        if overwrite and retry_failed:
            raise InputError("retry_failed has no effect with overwrite, which tries all requests again: leave it out")
        _check_paths(str(requests), self._results, overwrite=overwrite, retry_failed=retry_failed)
        self._requests = RequestFile(str(requests))
        self.name = self._requests.name
        path = Path(results)
        starts_empty = overwrite or is_stream(self._results) or not path.exists()
        self.resume = ResumeState() if starts_empty else read_resume_state(path, retry_failed=retry_failed)

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


def _check_paths(requests: str, results: str, **flags: bool) -> None:
    """Refuse results that cannot be written, before anything is read."""
    for name, given in flags.items():
        if given and is_stream(results):
            raise InputError(f"{name} has no effect on {results!r}, which is no file: leave it out")
    if results == "-":
        return
    path = Path(results)
    check_output_file(path)
    if requests != "-" and path.exists() and Path(requests).exists() and path.samefile(requests):
        raise InputError(f"{requests} and {path} are the same file: give another one for the results")
