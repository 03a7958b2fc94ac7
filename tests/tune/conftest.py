"""Fixtures of the tuning tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minseek.tune import Settings, TunePlan
from minseek.tune.plan import plan_tuning
from tests.helpers.tiny_models import save

PLANS: dict[Any, TunePlan] = {}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied two-layer Llama that learns quickly."""
    folder = tmp_path_factory.mktemp("small")
    return save(folder, "llama-tied", num_hidden_layers=2, closes=1.0, initializer_range=0.05)


@pytest.fixture(autouse=True)
def plans_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the same settings have the same plan, and it takes longer than they do."""

    def planned(config: Any, settings: Settings, **sizes: Any) -> TunePlan:
        key = (config.to_json_string(), replace(settings, seed=0, steps=1, lr=1.0), *sizes.items())
        if key not in PLANS:
            PLANS[key] = plan_tuning(config, settings, **sizes)
        return PLANS[key]

    monkeypatch.setattr("minseek.tune.run.plan_tuning", planned)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "data.txt"
    file.write_text("the cat sat on the mat and the dog sat on the log; " * 20)
    return file
