"""``minseek serve``: its output, its refusals before anything starts, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from minseek.cli import main
from minseek.cli.serve import KEY_VARIABLE
from tests.helpers.serving import wait_for

pytestmark = pytest.mark.slow


class Process:
    """A server in a process of its own, and its output."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "minseek", "serve", "-m", str(folder), "--port", "0", *arguments]
        inherited = {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}
        self._process = subprocess.Popen(command, env=inherited | environment, stderr=subprocess.PIPE, text=True)
        self.printed = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.printed += line

    @property
    def url(self) -> str:
        wait_for(lambda: " at http" in self.printed or self._process.poll() is not None, seconds=200)
        found = re.search(r"serving \S+ at (http://\S+)", self.printed)
        assert found, self.printed
        return found[1]

    def stop(self, number: int) -> int:
        self._process.send_signal(number)
        code = self._process.wait(60)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[Process]:
    process = Process(folder, *arguments, **environment)
    try:
        yield process
    finally:
        process.kill()


def test_it_prints_its_plan_and_exits_with_0_after_running_requests(tiny_folders: dict[str, Path]) -> None:
    limits = ("--kv-budget", "1MB", "--max-completion-tokens", "3000")
    with started(tiny_folders["llama"], "--dtype", "float32", "--device", "cpu", *limits) as process:
        url = process.url
        assert re.search(r"^4 slots +\d+ KB +allocated at once, of 1.00 MB$", process.printed, re.M), process.printed
        assert url.startswith("http://127.0.0.1:")
        assert httpx2.get(url + "/health", timeout=60).json() == {"status": "ok"}
        assert httpx2.get(url + "/health", headers={"Host": "evil.org"}, timeout=60).status_code == 403
        body = {"messages": [{"role": "user", "content": "marked words"}], "thinking": {"thoughts": "unbounded"}}
        with httpx2.stream("POST", url + "/v1/chat/completions", json={**body, "stream": True}, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            ended: list[int] = []
            stopper = threading.Thread(target=lambda: ended.append(process.stop(signal.SIGINT)))
            stopper.start()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        stopper.join()
        assert ended == [0]
        assert "POST /v1/chat/completions 200 " in process.printed
        assert process.printed.endswith("minseek: stopped\n")
        assert "marked" not in process.printed
        assert "Traceback" not in process.printed


def test_the_key_of_the_environment_and_the_other_signal(tiny_folders: dict[str, Path]) -> None:
    arguments = ("--host", "0.0.0.0", "--allowed-host", "a.org")
    with started(tiny_folders["llama"], *arguments, MINSEEK_API_KEY="secret") as process:
        url = process.url.replace("0.0.0.0", "127.0.0.1") + "/v1/models"
        key = {"Authorization": "Bearer secret"}
        for host, sent, status in (("a.org", {}, 401), ("a.org", key, 200), ("b.org", key, 403)):
            assert httpx2.get(url, headers={"Host": host, **sent}, timeout=60).status_code == status
        assert process.stop(signal.SIGTERM) == 0
        assert "can use this server" not in process.printed
        assert "secret" not in process.printed


def test_an_open_server_is_warned_of(
    tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setattr("minseek.cli.serve._serve", lambda *_: 0)
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False)):
        assert main(["serve", "-m", str(tiny_folders["llama"]), "--host", host, "--port", "0"]) == 0
        message = f"minseek: anyone who reaches {host} can use this server: give it an --api-key"
        assert (message in capsys.readouterr().err) == warned


WRONG: list[tuple[list[str], str]] = [
    (["--kv-budget", "1KB"], "a slot needs 64 tokens"),
    (["--kv-budget", "lots"], "cannot read the size 'lots'"),
    (["--slot-tokens", "5"], "--slot-tokens must be 64 or more, not 5"),
    (["--slots", "0"], "--slots must be 1 or more, not 0"),
    (["--max-completion-tokens", "0"], "--max-completion-tokens must be 1 or more, not 0"),
    (["--strategy", "min-seek", "--keep", "0"], "--keep must be 1 or more, not 0"),
    (["--slot-tokens", "9999"], "--slot-tokens must be at most the model's context of 512"),
    (["--kv-budget", "100KB", "--slots", "9", "--slot-tokens", "100"], "only 1 fit"),
    (["--slots", "0"], "--slots must be 1 or more, not 0"),
    (["--queue", "-1"], "queue must be 0 or more, not -1"),
    (["--max-body", "0"], "a size must be positive"),
    (["--max-completion-tokens", "0"], "must be 1 or more, not 0"),
    (["--grace", "-1"], "--grace must be 0 or more seconds, not -1"),
    (["--grace", "nan"], "--grace must be 0 or more seconds"),
    (["--port", "70000"], "--port must be between 0 and 65535, not 70000"),
    (["--host", "no.such.host.invalid"], "there is no host 'no.such.host.invalid'"),
    (["--host", "203.0.113.1"], "port 0 of 203.0.113.1 cannot be bound"),
    (["--thoughts", "3"], "--thoughts has no effect without --strategy"),
    (["--strategy", "standard", "--thoughts", "3"], "--thoughts has no effect with the strategy standard"),
    (["--strategy", "min-seek", "--thoughts", "some"], "--thoughts must be a number or 'unbounded', not 'some'"),
    (["--strategy", "budget-forcing", "--thoughts", "600"], "and a slot holds 512: give fewer thoughts"),
    (["--strategy", "min-seek", "--thoughts", "99", "--keep", "99", "--slot-tokens", "100"], "slot holds 100: give"),
    (["--strategy", "min-seek", "--thoughts", "2", "--keep", "5"], "--keep 5 has no effect with --thoughts 2: give"),
    (["--api-key", ""], "the API key must be printable"),
    (["--metrics-key", "k\u00e9"], "the metrics key must be printable"),
    (["--cors-origin", "foo"], "'foo' is no origin: give the scheme and host"),
    (["--cors-origin", "https://a.org/"], "'https://a.org/' is no origin"),
    (["--json"], "--json has no effect without --plan"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_what_is_refused(
    tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    assert main(["serve", "-m", str(tiny_folders["llama"]), "--dtype", "float32", *port, *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    (line,) = printed.err.splitlines()
    assert line.startswith("minseek: ")


def test_an_empty_key_is_no_key(
    tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable is an error: the server does not open itself up."""
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert main(["serve", "-m", str(tiny_folders["llama"]), "--port", "0"]) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_port_that_is_taken(tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "-m", str(tiny_folders["llama"]), "--port", str(port)]) == 2
        wanted = f"minseek: port {port} of 127.0.0.1 is in use: give another --port or --host\n"
        assert capsys.readouterr().err == wanted


def test_the_plan_alone(tiny_folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "-m", str(tiny_folders["llama"]), "--dtype", "float32", "--kv-budget", "1MB", "--plan"]
    assert main(arguments) == 0
    assert "4 slots" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert '"slots": 4' in capsys.readouterr().out
