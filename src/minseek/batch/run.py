"""Running the requests of a file that have no result yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

from minseek.batch.files import BatchFiles
from minseek.batch.request_jobs import RequestJob, make_jobs
from minseek.batch.requests import InvalidRequest, Request, RequestDefaults
from minseek.batch.result_file import RecordWriter
from minseek.batch.results import error_record, result_record
from minseek.batch.scan import FileSummary
from minseek.engine import BatchPlan, Engine
from minseek.engine.engine import Progress
from minseek.engine.interrupts import finish_pass_first
from minseek.errors import InputError
from minseek.models import Model
from minseek.units import format_bytes


@dataclass(frozen=True)
class BatchProgress:
    """State of a run.

    Attributes
    ----------
    done, failed : int
        Results written in this run, and error records.
    total : int
        Lines that the run has to write.
    slots : int
        Slots of the plan; 0 if nothing has to be run.
    engine : Progress or None
        Counters of the engine, which the run keeps up to date; None if nothing has to be run.
    """

    done: int
    failed: int
    total: int
    slots: int
    engine: Progress | None


@dataclass(frozen=True)
class BatchSummary:
    """Outcome of `run_file`.

    Attributes
    ----------
    done, failed : int
        Results written in this run, and error records.
    skipped, failed_before : int
        Lines that had a result before, and those of them whose result is an error.
    seconds : float
        Duration of the run, without loading and planning.
    plan : BatchPlan or None
        Memory plan; None for a file without any valid request.
    """

    done: int
    failed: int
    skipped: int
    failed_before: int
    seconds: float
    plan: BatchPlan | None

    @property
    def all_failed(self) -> bool:
        """True if the file has requests and the result of each is an error."""
        return self.any_failed and self.done + self.skipped == self.failed_before

    @property
    def any_failed(self) -> bool:
        """True if the result of a request is an error."""
        return self.failed + self.failed_before > 0


OnProgress = Callable[[BatchProgress], None]


def run_requests(
    model: Model,
    files: BatchFiles,
    plan: BatchPlan | None,
    defaults: RequestDefaults,
    summary: FileSummary,
    on_progress: OnProgress | None = None,
) -> BatchSummary:
    """Run the requests without a result; see `minseek.batch.run_file`."""
    # The slots are allocated first: if that fails, nothing is written.
    engine = _make_engine(model, plan) if plan is not None and summary.to_run else None
    with files.open_results() as out:
        run = _Run(model, plan, out, summary.left, engine, on_progress)
        with finish_pass_first(engine) if engine is not None else nullcontext():
            run.run(item for item in files.read(defaults) if not files.resume.has(item))
    skipped = summary.lines - summary.left
    return BatchSummary(run.done, run.failed, skipped, summary.failed_before, run.seconds, plan)


class _Run:
    """Requests on their way through the engine to the result file."""

    def __init__(
        self,
        model: Model,
        plan: BatchPlan | None,
        out: RecordWriter,
        total: int,
        engine: Engine | None,
        on_progress: OnProgress | None,
    ) -> None:
        self._model, self._plan, self._out, self._total = model, plan, out, total
        self._engine, self._on_progress = engine, on_progress
        self._started = time.perf_counter()
        self.done = self.failed = 0

    @property
    def seconds(self) -> float:
        """Duration so far."""
        return time.perf_counter() - self._started

    def run(self, items: Iterator[Request | InvalidRequest]) -> None:
        """Run all requests and write each result when it is complete."""
        self._report()
        jobs = self._jobs(items)
        finished = self._engine.run(jobs) if self._engine is not None else jobs
        for job in cast("Iterator[RequestJob]", finished):  # the engine yields the jobs that it was given
            if not job.run.finish():
                continue
            result = job.run.result()
            if isinstance(result, InvalidRequest):
                self._write_error(result)
            else:
                self._out.write(result_record(job.run.request, result, self._model.name))
                self.done += 1
                self._report()

    def _jobs(self, items: Iterator[Request | InvalidRequest]) -> Iterator[RequestJob]:
        """Make jobs one request at a time, as slots become free; write the errors of refused requests."""
        for item in items:
            made = item if isinstance(item, InvalidRequest) else make_jobs(self._model, self._checked_plan(), item)
            if isinstance(made, InvalidRequest):
                self._write_error(made)
            else:
                yield from made.jobs

    def _checked_plan(self) -> BatchPlan:
        assert self._plan is not None, "a file with a valid request has a plan"
        return self._plan

    def _write_error(self, invalid: InvalidRequest) -> None:
        self._out.write(error_record(invalid))
        self.failed += 1
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            slots = self._plan.slots if self._plan is not None else 0
            progress = None if self._engine is None else self._engine.progress
            self._on_progress(BatchProgress(self.done, self.failed, self._total, slots, progress))


def _make_engine(model: Model, plan: BatchPlan) -> Engine:
    try:
        return Engine(model, plan)
    except RuntimeError as error:  # torch raises it for a failed allocation
        raise InputError(
            f"{plan.slots} slots of {format_bytes(plan.slot.nbytes)} could not be allocated: give a smaller KV budget "
            "or fewer sequences"
        ) from error
