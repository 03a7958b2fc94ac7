"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import minseek
from minseek.cli import main
from tests.helpers.batch_files import Batch, as_lines, read_records


@pytest.fixture
def tiny_command(
    tiny: minseek.Model, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., SimpleNamespace]:
    """Run `minseek` in this process with a model that is loaded already: exit code, standard output and error."""
    monkeypatch.setattr("minseek.models.load", lambda *_, **__: tiny)

    def run(*args: str) -> SimpleNamespace:
        capfdbinary.readouterr()
        try:
            code = main(args)
        except SystemExit as ended:
            code = ended.code
        out, err = capfdbinary.readouterr()
        return SimpleNamespace(code=code, out=out.decode(), err=err.decode())

    return run


@pytest.fixture
def batch(tiny_command: Callable[..., SimpleNamespace], tiny: minseek.Model, tmp_path: Path) -> Batch:
    """`minseek batch` on these lines; its output, and the records in the order of the file."""
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def run(lines: list[Any] | bytes, *args: str) -> SimpleNamespace:
        source.write_bytes(lines if isinstance(lines, bytes) else as_lines(lines))
        flags = ("-m", tiny.name, "--temperature", "0", "--top-p", "1")
        ran = tiny_command("batch", str(source), str(target), *flags, *args)
        ran.records = read_records(target) if target.exists() else None
        return ran

    run.path = target  # type: ignore[attr-defined]
    return run
