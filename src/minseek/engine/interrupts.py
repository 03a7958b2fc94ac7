"""Ctrl-C and SIGTERM while an engine runs: the results of the pass that runs are not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from minseek.signals import terminate

if TYPE_CHECKING:
    from minseek.engine.engine import Engine

_RAISING: dict[int, Callable[..., NoReturn]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: terminate,
}


@contextmanager
def finish_pass_first(engine: Engine) -> Iterator[None]:
    """Delay a Ctrl-C during a pass until the pass has ended; a second one stops at once.

    SIGTERM is delayed as well where it raises `Terminated`, as on the command line. No effect outside the main thread,
    or if the program has handlers of its own.
    """
    raising: dict[int, Callable[..., NoReturn]] = {
        number: handler for number, handler in _RAISING.items() if signal.getsignal(number) is handler
    }
    if threading.current_thread() is not threading.main_thread() or not raising:
        yield
        return
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        if received or not engine.passing:
            raising[number](number, frame)
        received.append(number)

    def raise_if_received() -> None:
        if received:
            raising[received[0]](received[0], None)

    engine.before_pass = raise_if_received
    for number in raising:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in raising.items():
            signal.signal(number, handler)
        engine.before_pass = None
