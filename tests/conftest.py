"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import minseek
from tests.helpers.tiny_models import ARCHITECTURES, save

torch.set_grad_enabled(False)

_NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=_NEEDS_CUDA)]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Handle SIGINT, which child processes inherit, also where it is ignored from the start (``nohup make test &``)."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of the four architectures, each with tags that the template opens."""
    return {kind: save(tmp_path_factory.mktemp(kind), kind) for kind in ARCHITECTURES}


@pytest.fixture(scope="session")
def tiny(tiny_folders: dict[str, Path]) -> minseek.Model:
    """A tiny Llama in float32."""
    return minseek.load(str(tiny_folders["llama"]), device="cpu", dtype="float32")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny steps very slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
