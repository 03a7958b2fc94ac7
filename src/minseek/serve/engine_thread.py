"""Engine thread: takes jobs from a bounded queue and runs them in the engine's slots."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from minseek.engine import Engine, Job
from minseek.serve.errors import ApiError, report
from minseek.serve.event_channel import EventChannel, StreamEnd

State = Literal["ok", "stopping", "failed"]
_INITIAL_SECONDS = 10.0  # assumed duration of a choice before any has been measured
_MEAN_DECAY = 0.9  # of the mean duration, at each choice that ends
_MAX_RETRY_SECONDS = 600


@dataclass(eq=False)
class QueuedJob:
    """One choice of a request, on its way through the engine thread.

    Attributes
    ----------
    job : Job
        Job of the engine; it puts its events into the channel.
    channel : EventChannel
        Channel of the request.
    choice : int
        Index of the choice in the request.
    """

    job: Job
    channel: EventChannel
    choice: int
    started: float = field(default=0.0, init=False)

    def end(self, error: Exception | None = None) -> None:
        """Send the end of the choice."""
        self.channel.put(self.choice, StreamEnd(error))
        self.channel.wake()


class EngineThread:
    """Runs queued jobs until it is stopped.

    Parameters
    ----------
    engine : Engine
        Used by this thread only.
    queue : int
        Jobs that may wait while all slots are in use.
    after_pass : callable
        Called in the engine thread after every pass.

    Attributes
    ----------
    running : list of QueuedJob
        Jobs that have a slot.
    state : {"ok", "stopping", "failed"}
        "ok" while jobs are accepted.
    """

    def __init__(self, engine: Engine, queue: int, after_pass: Callable[[], None] = lambda: None) -> None:
        self.engine, self._queue, self._after_pass = engine, queue, after_pass
        self.running: list[QueuedJob] = []
        self._waiting: deque[QueuedJob] = deque()
        self._cancelled: list[QueuedJob] = []
        self._changed = threading.Condition()
        self._stopping = self._end = False
        self._failed = False
        self._mean_seconds = _INITIAL_SECONDS
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        return "failed" if self._failed else "stopping" if self._stopping else "ok"

    @property
    def waiting(self) -> int:
        """Number of jobs without a slot."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Number of jobs that have not ended."""
        with self._changed:
            return len(self._waiting) + len(self.running)

    def submit(self, jobs: Sequence[QueuedJob]) -> None:
        """Accept all of these jobs, or none.

        Raises
        ------
        ApiError
            If the queue is full (429, with the seconds after which to try again), or no jobs are accepted any more
            (503).
        """
        with self._changed:
            if self._failed:
                raise ApiError(503, "the server has failed: it must be started again", code="unavailable")
            if self._stopping:
                raise ApiError(503, "the server is stopping: try another one", code="unavailable")
            free = self.engine.plan.slots + self._queue - len(self.running) - len(self._waiting)
            if len(jobs) > free:
                raise self._queue_full(len(jobs), free)
            self._waiting.extend(jobs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="minseek-engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _queue_full(self, requested: int, free: int) -> ApiError:
        wait = self._mean_seconds * (1 + len(self._waiting)) / self.engine.plan.slots
        seconds = min(_MAX_RETRY_SECONDS, max(1, math.ceil(wait)))
        if free > 0:
            message = (
                f"the request has {requested} choices, and the queue takes {free} now: "
                f"send fewer, or try again in {seconds} s"
            )
        else:
            busy = len(self.running) + len(self._waiting)
            message = f"{busy} choices run or wait, and no more are accepted: try again in {seconds} s"
        return ApiError(429, message, code="queue_full", headers={"Retry-After": str(seconds)})

    def cancel(self, jobs: Sequence[QueuedJob]) -> None:
        """Release the slots of these jobs at once; jobs that have ended are ignored."""
        with self._changed:
            self._cancelled.extend(jobs)
            self._changed.notify()

    def stop_accepting(self) -> None:
        """Accept no more jobs; accepted ones go on."""
        with self._changed:
            self._stopping = True

    def end(self) -> None:
        """Fail all jobs that have not ended, and end the thread."""
        with self._changed:
            self._stopping = self._end = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        failed = False
        try:
            while self._prepare():
                self._pass()
        except Exception as error:
            failed = True
            report(error)
        with self._changed:
            self._failed, self._stopping = failed, True
            left = [*self.running, *self._waiting]
            self.running.clear()
            self._waiting.clear()
        for queued in left:
            self.engine.cancel(queued.job)
            queued.end(ApiError(503, "the server was stopped before the answer was complete", code="unavailable"))

    def _prepare(self) -> bool:
        """Wait for work, remove cancelled jobs, and admit waiting ones; return False at the end."""
        with self._changed:
            while not (self.running or self._waiting or self._cancelled or self._end):
                self._changed.wait()
            for queued in self._cancelled:
                if queued in self.running:
                    self.engine.cancel(queued.job)
                    self.running.remove(queued)
                elif queued in self._waiting:
                    self._waiting.remove(queued)
            self._cancelled.clear()
            new = [self._waiting.popleft() for _ in range(min(self.engine.free, len(self._waiting)))]
            self.running.extend(new)
            end = self._end
        for queued in new:
            self._admit(queued)
        return not end

    def _admit(self, queued: QueuedJob) -> None:
        queued.started = time.monotonic()
        try:
            self.engine.admit(queued.job)
        except Exception as error:
            self._finish(queued, error)

    def _pass(self) -> None:
        try:
            for ended in self.engine.step():
                self._finish(next(queued for queued in self.running if queued.job is ended.job), ended.error)
        except Exception as error:  # of the pass: the caches of its jobs are undefined
            for queued in list(self.running):
                self.engine.cancel(queued.job)
                self._finish(queued, error)
        for queued in self.running:
            queued.channel.wake()
        self._after_pass()

    def _finish(self, queued: QueuedJob, error: Exception | None) -> None:
        with self._changed:
            self.running.remove(queued)
            seconds = time.monotonic() - queued.started
            self._mean_seconds = _MEAN_DECAY * self._mean_seconds + (1 - _MEAN_DECAY) * seconds
        if error is not None:
            report(error)
            error = ApiError(500, "the model failed to answer this request", code="model_error")
        queued.end(error)
