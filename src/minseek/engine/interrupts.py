"""Ctrl-C while an engine runs: the results of the pass that runs are not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minseek.engine.engine import Engine


@contextmanager
def finish_pass_first(engine: Engine) -> Iterator[None]:
    """Delay a Ctrl-C during a pass until the pass has ended; a second one stops at once.

    No effect outside the main thread, or if the program has a handler of its own.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    interrupted = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set() or not engine.passing:
            raise KeyboardInterrupt
        interrupted.set()

    def raise_if_interrupted() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    engine.before_pass = raise_if_interrupted
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        engine.before_pass = None
