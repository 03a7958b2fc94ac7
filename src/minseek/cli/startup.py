"""Signals while a command starts: SIGTERM as an exception, and an import of torch that Ctrl-C can end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from minseek.signals import terminate


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM, so that results, terminal and locks are left as after Ctrl-C.

    No effect outside the main thread, or if the program has a handler of its own.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def import_torch() -> None:
    """Import torch, and end the process at Ctrl-C or SIGTERM meanwhile.

    Torch calls Python from C++ while it is imported. A KeyboardInterrupt there aborts the process with a core dump.
    """
    if "torch" in sys.modules:
        return
    if threading.current_thread() is not threading.main_thread():
        import torch

        return
    before = {number: signal.signal(number, _leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        import torch  # noqa: F401
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"minseek: interrupted\n")
    os._exit(128 + number)
