"""math-verify in a process of its own.

Answers are a model's: reading ``9^{9^{9^9}}`` takes for ever, in code that no signal handler interrupts, and
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

_SECONDS = 5.0  # for one comparison
_MEMORY = 4 << 30  # bytes of address space


def installed() -> bool:
    """Whether math-verify is there."""
    return find_spec("math_verify") is not None


class Verifier:
    """Compares expressions, one after the other, from any thread; the process starts with the first one.

    Parameters
    ----------
    seconds : float
        Of the processor, for one comparison.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._seconds, self._lock = seconds, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def equal(self, expected: str, given: str) -> bool:
        """Whether two expressions are equal; False if one cannot be read, or not in time."""
        with self._lock:
            try:
                process = self._running()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps([expected, given]).encode() + b"\n")
                process.stdin.flush()
                verdict = process.stdout.readline()
            except BaseException as error:  # after an interrupt, the answer still to come is not the next question's
                self._end()
                if isinstance(error, OSError):
                    return False
                raise
            if not verdict:  # the process has come to its end, or is about to
                self._end()
            return verdict == b"equal\n"

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
            with suppress(OSError):  # what was still to be written
                self._process.communicate()
        self._process = None


def main() -> None:
    """Answer pairs of expressions, a line each, until the other side closes."""
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the parsers print
    parse("$1$", parsing_timeout=None)  # what it imports at first use is not the first comparison's time
    for line in sys.stdin.buffer:
        # The signal, not handled, ends the process anywhere. It counts the processor's time, not the load's.
        signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
        try:
            expected, given = (parse(text, parsing_timeout=None) for text in json.loads(line))
            equal = bool(expected) and bool(given) and verify(expected, given, timeout_seconds=None)
        except Exception:  # parsers of somebody else's texts fail in many ways; none of them is an equal answer
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(b"equal\n" if equal else b"different\n")


if __name__ == "__main__":
    main()
