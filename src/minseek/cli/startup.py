"""Import of torch that Ctrl-C can end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130  # the exit code of shells for a process ended by Ctrl-C


def import_torch() -> None:
    """Import torch, and end the process at Ctrl-C meanwhile.

    Torch calls Python from C++ while it is imported. A KeyboardInterrupt there aborts the process with a core dump.
    """
    if "torch" in sys.modules:
        return
    if threading.current_thread() is not threading.main_thread():
        import torch

        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        import torch  # noqa: F401
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"minseek: interrupted\n")
    os._exit(INTERRUPTED)
