"""Models whose forward pass runs in C or in PyTorch, as a test asks."""

from __future__ import annotations

from pathlib import Path

import pytest

import minseek


def load(folder: Path, device: str, step: str, monkeypatch: pytest.MonkeyPatch) -> minseek.Model:
    monkeypatch.setenv("MINSEEK_NATIVE", "1" if step == "C" else "0")
    model = minseek.load(str(folder), device=device, dtype="float32")
    assert model.backend == ("C" if step == "C" and device == "cpu" else "PyTorch")
    return model
