"""Fallback to PyTorch if the C kernels cannot be built, with the same answers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from minseek.native import library as native
from minseek.native import native_status
from tests.helpers.loading import greedy_tokens, load_cpu
from tests.helpers.tiny_models import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder; the library that a test finds or does not is forgotten."""
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    yield tmp_path
    native._find_or_build.cache_clear()


def _turned_off(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MINSEEK_NATIVE", "0")


def _no_compiler(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(native.shutil, "which", lambda name: None)


def _compiler(folder: Path, patch: pytest.MonkeyPatch, script: str) -> None:
    compiler = folder / "mycc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    patch.setenv("CC", str(compiler))


def _silent_failure(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, "exit 1")


def _failure(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, "echo 'unknown option -fopenmp' >&2; echo more >&2; exit 1")


def _garbage(folder: Path, patch: pytest.MonkeyPatch) -> None:
    _compiler(folder, patch, 'while [ "$1" != -o ]; do shift; done; echo garbage >"$2"')


def _no_folder(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "cache").write_text("a file")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_turned_off, "MINSEEK_NATIVE=0"),
        (_no_compiler, "no C compiler"),
        (_silent_failure, "mycc failed: no message"),
        (_failure, "mycc failed: unknown option -fopenmp"),
        (_garbage, "could not be loaded"),
        (_no_folder, "could not be built"),
    ],
)
def test_without_the_c_step_pytorch_gives_the_same_answer(
    tiny_folders: dict[str, Path],
    unbuilt: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    expected = greedy_tokens(load_cpu(tiny_folders["llama"]))
    monkeypatch.setenv("MINSEEK_CACHE", str(unbuilt / "cache"))
    native._find_or_build.cache_clear()
    spoil(unbuilt, monkeypatch)
    status = native_status(torch.float32)
    assert status.library is None
    assert reason in status.reason
    assert "\n" not in status.reason
    model = load_cpu(tiny_folders["llama"])
    assert model.backend == "PyTorch"
    assert greedy_tokens(model) == expected


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="built for Linux")
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_both_steps_give_the_same_tokens(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.delenv("MINSEEK_NATIVE", raising=False)
    fast = load_cpu(tiny_folders[kind])
    monkeypatch.setenv("MINSEEK_NATIVE", "0")
    plain = load_cpu(tiny_folders[kind])
    assert (fast.backend, plain.backend) == ("C", "PyTorch")
    assert greedy_tokens(fast) == greedy_tokens(plain)


def test_there_is_no_c_step_for_float16() -> None:
    status = native_status(torch.float16)
    assert (status.library, status.reason) == (None, "there is none for float16")
