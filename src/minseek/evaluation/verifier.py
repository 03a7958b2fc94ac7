"""math-verify in a separate process.

Answers come from a model: parsing ``9^{9^{9^9}}`` never ends, in code that no signal handler interrupts, and
math-verify's own time limit works in the main thread only. A process can be killed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec

from minseek.errors import InputError
from minseek.evaluation.exact_numbers import exact

_SECONDS = 5.0  # for one comparison
_MEMORY = 4 << 30  # bytes of address space


def require_math_verify() -> None:
    """Check that math-verify is installed.

    Raises
    ------
    InputError
        If it is not.
    """
    if find_spec("math_verify") is None:
        raise InputError("answers are checked with math-verify, which is not installed: pip install math-verify")


class Verifier:
    """Compares expressions one at a time, from any thread; the process starts with the first comparison.

    Parameters
    ----------
    seconds : float
        Processor time for one comparison.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, expected: str, given: str) -> bool:
        """Compare two expressions; False if one cannot be parsed, or not in time."""
        with self._lock:
            try:
                process = self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps([expected, given]).encode() + b"\n")
                process.stdin.flush()
                reply = process.stdout.readline()
            except (
                BaseException
            ) as error:  # after an interrupt, the outstanding reply must not answer the next question
                self._end()
                if isinstance(error, OSError):
                    return False
                raise
            if not reply:  # the process has ended, or is about to
                self._end()
            return reply == b"equal\n"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the run alone
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            with suppress(OSError):  # of an unfinished write
                self._process.communicate()
        self._process = None


def main() -> None:
    """Compare pairs of expressions, one a line, until the input is closed."""
    from math_verify import grader, parse, verify

    grader.sympy_numeric_eq = exact(grader.sympy_numeric_eq)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the parsers print to it
    parse("$1$", parsing_timeout=None)  # imports at first use must not count as time of the first comparison
    for line in sys.stdin.buffer:
        # The unhandled signal ends the process wherever it is. It counts processor time, whatever the machine's load.
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
        try:
            expected, given = (parse(text, parsing_timeout=None) for text in json.loads(line))
            equal = bool(expected) and bool(given) and verify(expected, given, timeout_seconds=None)
        except Exception:  # parsers fail in many ways on a model's text; none of them is an equal answer
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"equal\n" if equal else b"different\n")


if __name__ == "__main__":
    main()
