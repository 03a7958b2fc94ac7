"""Loading of models for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek import InputError


def load(folder: Path, device: str, step: str, monkeypatch: pytest.MonkeyPatch) -> minseek.Model:
    """Load in float32 with the forward pass in C or in PyTorch."""
    monkeypatch.setenv("MINSEEK_NATIVE", "1" if step == "C" else "0")
    model = minseek.load(str(folder), device=device, dtype="float32")
    assert model.backend == ("C" if step == "C" and device == "cpu" else "PyTorch")
    return model


def load_cpu(source: object, **options: Any) -> minseek.Model:
    """Load on the CPU in float32, unless `options` say otherwise."""
    return minseek.load(str(source), **{"device": "cpu", "dtype": "float32", **options})


def refusal(source: object, **options: Any) -> str:
    """The message with which a model is refused: one line and a whole sentence."""
    with pytest.raises(InputError) as caught:
        load_cpu(source, **options)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    assert not text.rstrip().endswith(":"), "it breaks off before the reason"
    return text


def greedy_tokens(model: minseek.Model) -> list[int]:
    """All tokens of a greedy run whose thoughts are kept, dropped and cut off."""
    return minseek.reason(
        model,
        "Why?",
        strategy=minseek.MinSeek(3),
        sampling=minseek.Sampling(temperature=0),
        limits=minseek.Limits(max_thought_tokens=20, answer_tokens=20),
    ).tokens
