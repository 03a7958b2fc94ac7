"""Every Python block of the README and of docs/ runs as it stands; every minseek command line is accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from minseek.models import alias_file
from minseek.reasoning.strategies import STRATEGIES, MinSeek
from tests.helpers.markdown import PAGES, ROOT, blocks, load_script

_PAGES_WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page.read_text()))]
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}
_ADDRESS = "http://127.0.0.1:8000"
_HAS_SMOLLM2 = alias_file("smollm2") is not None


def python_of(page: Path) -> str:
    """Return the Python blocks of a page, one after the other, each at its own line."""
    lines: list[str] = []
    for block in blocks(page.read_text()):
        if block.language == "python":
            lines += [""] * (block.line - len(lines)) + block.text.splitlines()
    return "\n".join(lines)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the minseek of this clone."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=_ENVIRONMENT, capture_output=True, text=True, timeout=240)


@contextmanager
def server() -> Iterator[str]:
    """Serve SmolLM2 on a free port; the address while it runs."""
    command = [sys.executable, "-m", "minseek", "serve", "-m", "smollm2", "--slots", "2", "--port", "0"]
    command += ["--slot-tokens", "1024", "--max-completion-tokens", "200"]  # whatever the page asks for
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=_ENVIRONMENT, text=True)
    try:
        assert process.stderr is not None
        found = (re.search(r"http://[\d.:]+\d", line) for line in process.stderr)
        yield next(match[0] for match in found if match)
    finally:
        process.terminate()
        process.wait()


def _case(page: Path) -> object:
    name, code = str(page.relative_to(ROOT)), python_of(page)
    marks = [pytest.mark.slow]
    if "smollm2" in code:
        missing = pytest.mark.skipif(not _HAS_SMOLLM2, reason="smollm2 is not here: minseek models --get smollm2")
        marks += [pytest.mark.smollm2, missing]
    return pytest.param(page, id=name, marks=marks)


@pytest.mark.parametrize("page", [_case(page) for page in _PAGES_WITH_PYTHON])
def test_python_blocks_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    code, file = python_of(page), tmp_path / f"{page.stem}.py"
    with server() if _ADDRESS in code else nullcontext(_ADDRESS) as address:
        file.write_text(code.replace(_ADDRESS, address))
        done = subprocess.run(
            [sys.executable, file.name], cwd=tmp_path, env=_ENVIRONMENT, capture_output=True, text=True, timeout=240
        )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_the_readme_says_is_printed_is_printed(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    first = next(block.text for block in blocks(text) if block.language == "python")
    (said,) = re.findall(r"print\(result\.answer\)  # (.+)", first)
    done = subprocess.run(
        [sys.executable, "-c", first], cwd=tmp_path, env=_ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[0] == said, done.stderr


def commands_of(page: Path) -> list[tuple[int, str]]:
    """Return the command lines of a page that call minseek, continued lines joined."""
    found = []
    for block in blocks(page.read_text()):
        if block.language in ("", "text", "bash", "sh", "console"):
            text = re.sub(r"\\\n\s*", " ", block.text)
            found += [(block.line, line.strip()) for line in text.splitlines() if re.match(r"\s*minseek ", line)]
    return found


@dataclass(frozen=True)
class KeepEvery(MinSeek):
    """Stands for the strategy of docs/extending.md."""

    period: int = 2


_COMMANDS = [(page, line, command) for page in PAGES for line, command in commands_of(page)]


@pytest.mark.parametrize(
    "command", [pytest.param(text, id=f"{page.relative_to(ROOT)}:{line}:{text[:40]}") for page, line, text in _COMMANDS]
)
def test_command_lines_are_accepted_by_their_parsers(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command, comments=True)
    if "--import" in words:  # the page defines the module, and tests/cli/test_plugins.py runs such commands
        monkeypatch.setitem(STRATEGIES, "keep-every", KeepEvery)
    parsers = load_script("docs/hooks/command_pages.py").parsers()
    assert words[1] in parsers
    parsers[words[1]].parse_args(words[2:])
