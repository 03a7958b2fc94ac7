"""SIGTERM as an exception, and the exit codes of interrupted commands."""

from __future__ import annotations

from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C raises `KeyboardInterrupt`."""


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Handle SIGTERM by raising `Terminated`."""
    raise Terminated


def exit_code(error: KeyboardInterrupt) -> int:
    """Exit code that shells give to a process ended by the signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 143 if isinstance(error, Terminated) else 130
