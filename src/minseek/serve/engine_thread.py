"""The one thread that has the model: it takes orders from a bounded queue and runs them side by side in the slots."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from minseek.engine import Engine
from minseek.engine.generation import Job
from minseek.serve.errors import ApiError, report
from minseek.serve.event_channel import EventChannel, StreamEnd
from minseek.serve.replies import State

_FIRST_GUESS = 10.0  # seconds that a choice takes, before any has been measured
_MEMORY = 0.9  # of the mean duration, at each choice that ends
_LONGEST_WAIT = 600  # seconds


@dataclass(eq=False)
class Order:
    """A choice of a request, on its way through the worker.

    Attributes
    ----------
    job : Job
        What the engine runs; it puts what happens into the mailbox.
    mailbox : EventChannel
        The request's.
    choice : int
        Which of its choices this is.
    """

    job: Job
    mailbox: EventChannel
    choice: int
    began: float = field(default=0.0, init=False)

    def end(self, error: Exception | None = None) -> None:
        """Tell that it is over."""
        self.mailbox.put(self.choice, StreamEnd(error))
        self.mailbox.wake()


class EngineThread:
    """Runs orders until it is stopped.

    Parameters
    ----------
    engine : Engine
        Nobody else may use it.
    queue : int
        Orders that may wait when all slots are taken.
    after_pass : callable
        Called in the worker's thread after every pass.

    Attributes
    ----------
    seated : list of Order
        Those that have a slot.
    state : {"ok", "stopping", "failed"}
        Whether orders are taken.
    """

    def __init__(self, engine: Engine, queue: int, after_pass: Callable[[], None] = lambda: None) -> None:
        self.engine, self._queue, self._after_pass = engine, queue, after_pass
        self.seated: list[Order] = []
        self._waiting: deque[Order] = deque()
        self._cancelled: list[Order] = []
        self._changed = threading.Condition()
        self._stopping = self._end = False
        self._failed = False
        self._mean = _FIRST_GUESS
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> State:
        return "failed" if self._failed else "stopping" if self._stopping else "ok"

    @property
    def waiting(self) -> int:
        """Orders without a slot."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """Orders that have not ended."""
        with self._changed:
            return len(self._waiting) + len(self.seated)

    def submit(self, orders: Sequence[Order]) -> None:
        """Take all of these orders, or none.

        Raises
        ------
        ApiError
            If there is no room in the queue (429, with the seconds after which there may be), or no orders are taken
            any more (503).
        """
        with self._changed:
            if self._failed:
                raise ApiError(503, "the server has failed: it must be started again", code="unavailable")
            if self._stopping:
                raise ApiError(503, "the server is stopping: try another one", code="unavailable")
            room = self.engine.plan.slots + self._queue - len(self.seated) - len(self._waiting)
            if len(orders) > room:
                wait = self._mean * (1 + len(self._waiting)) / self.engine.plan.slots
                seconds = min(_LONGEST_WAIT, max(1, math.ceil(wait)))
                if room > 0:
                    why = f"{len(orders)} choices are asked for, and there is room for {room}"
                    todo = f"ask for fewer, or try again in {seconds} s"
                else:
                    why = f"{len(self.seated) + len(self._waiting)} choices run or wait, and no more are taken"
                    todo = f"try again in {seconds} s"
                raise ApiError(
                    429,
                    f"{why}: {todo}",
                    code="queue_full",
                    headers={"Retry-After": str(seconds)},
                )
            self._waiting.extend(orders)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="minseek-engine", daemon=True)
                self._thread.start()
            self._changed.notify()

    def cancel(self, orders: Sequence[Order]) -> None:
        """Free the slots of these orders at once; those that have ended already are none."""
        with self._changed:
            self._cancelled.extend(orders)
            self._changed.notify()

    def stop_taking(self) -> None:
        """Take no orders from now on; those that were taken go on."""
        with self._changed:
            self._stopping = True

    def end(self) -> None:
        """Fail what has not ended, and end the thread."""
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
            left = [*self.seated, *self._waiting]
            self.seated.clear()
            self._waiting.clear()
        for order in left:
            self.engine.cancel(order.job)
            order.end(ApiError(503, "the server was stopped before the answer was complete", code="unavailable"))

    def _prepare(self) -> bool:
        """Wait until there is something to do, let those go who have left, and seat who waits; False at the end."""
        with self._changed:
            while not (self.seated or self._waiting or self._cancelled or self._end):
                self._changed.wait()
            for order in self._cancelled:
                if order in self.seated:
                    self.engine.cancel(order.job)
                    self.seated.remove(order)
                elif order in self._waiting:
                    self._waiting.remove(order)
            self._cancelled.clear()
            new = [self._waiting.popleft() for _ in range(min(self.engine.free, len(self._waiting)))]
            self.seated.extend(new)
            end = self._end
        for order in new:
            self._admit(order)
        return not end

    def _admit(self, order: Order) -> None:
        order.began = time.monotonic()
        try:
            self.engine.admit(order.job)
        except Exception as error:
            self._over(order, error)

    def _pass(self) -> None:
        try:
            for ended in self.engine.step():
                order = next(order for order in self.seated if order.job is ended.job)
                self._over(order, ended.error)
        except Exception as error:  # of the pass: what its jobs have in their slots is no longer sound
            for order in list(self.seated):
                self.engine.cancel(order.job)
                self._over(order, error)
        for order in self.seated:
            order.mailbox.wake()
        self._after_pass()

    def _over(self, order: Order, error: Exception | None) -> None:
        with self._changed:
            self.seated.remove(order)
            self._mean = _MEMORY * self._mean + (1 - _MEMORY) * (time.monotonic() - order.began)
        if error is not None:
            report(error)
            error = ApiError(500, "the model failed to answer this request", code="model_error")
        order.end(error)
