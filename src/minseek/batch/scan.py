"""First pass over a request file: counts, and the length of the longest request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from minseek.batch.request_jobs import request_tokens
from minseek.batch.requests import InvalidRequest, Request
from minseek.batch.resume_state import ResumeState
from minseek.errors import InputError
from minseek.models import Model


@dataclass(frozen=True)
class FileSummary:
    """Counts of a request file.

    Attributes
    ----------
    lines : int
        Lines that are not blank, refused ones included.
    requests : int
        Lines that are valid requests.
    left : int
        Lines without a result, refused ones included.
    failed_before : int
        Lines whose result is an error.
    to_run : int
        Valid requests without a result.
    sequences : int
        Choices of all valid requests.
    longest : int or None
        Tokens of the longest request, prompt and output together, if it was measured.
    """

    lines: int
    requests: int
    left: int
    failed_before: int
    to_run: int
    sequences: int
    longest: int | None


def scan_requests(
    model: Model, items: Iterable[Request | InvalidRequest], state: ResumeState, *, lengths: bool
) -> FileSummary:
    """Count the requests of a file and, with `lengths`, measure the longest.

    Requests that have a result count as well, so that a resumed run has the plan of the run before it.
    """
    lines = requests = left = failed = to_run = sequences = longest = 0
    for item in items:
        lines += 1
        missing = not state.has(item)
        left += missing
        failed += state.has_failed(item)
        if isinstance(item, InvalidRequest):
            continue
        requests += 1
        sequences += item.sequences
        to_run += missing
        if lengths:
            try:
                longest = max(longest, request_tokens(model, item))
            except InputError:
                continue  # refused when it is run
    return FileSummary(lines, requests, left, failed, to_run, sequences, (longest or None) if lengths else None)
