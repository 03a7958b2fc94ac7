"""Runs that diverge, weights that were better than the last ones, and finished runs that are lengthened."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import minseek
from minseek.tune import Settings, TuneRun, tune
from minseek.tune.trainer import Trainer
from tests.helpers.tuning import FAST, weights_in

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Divergence


@pytest.mark.parametrize(("steps", "share"), [(2, 0.1), (2, 0.0), (12, 0.1)])
@pytest.mark.parametrize("lr", [1e6, 30.0])
def test_a_destroyed_model_is_no_finished_run(
    small: Path, text: Path, tmp_path: Path, lr: float, steps: int, share: float
) -> None:
    settings = Settings(**{**FAST, "steps": steps, "lr": lr, "eval_share": share})
    with pytest.raises(
        minseek.InputError, match=r"training has diverged: .* no model is written: give a smaller learning rate$"
    ):
        tune(str(small), text, tmp_path / "out", settings, device="cpu")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert json.loads((tmp_path / "out" / "tune.json").read_text())["finished"] is False
    steps_taken = [event["step"] for event in events(tmp_path / "out") if event["event"] == "step"]
    assert steps_taken == list(range(1, len(steps_taken) + 1))
    assert len(steps_taken) < 12  # it does not wait for the end


def test_the_best_weights_of_a_run_that_diverges_are_kept(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, out = tmp_path / "good", tmp_path / "out"
    settings = Settings(**{**FAST, "steps": 4, "lr": 0.3, "eval_every": 1})
    tune(str(small), text, good, settings, device="cpu")
    rate = Trainer.learning_rate
    monkeypatch.setattr(Trainer, "learning_rate", lambda trainer, step: rate(trainer, step) if step < 4 else 1e6)
    with pytest.raises(minseek.InputError, match=rf"the weights after step 4 are in {out}/best"):
        tune(str(small), text, out, Settings(**{**FAST, "steps": 20, "lr": 0.3, "eval_every": 1}), device="cpu")
    assert weights_in(out / "best") == weights_in(good)
    assert minseek.load(str(out / "best"), device="cpu").architecture == "llama"


def test_better_weights_than_the_last_ones_are_kept_and_told(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 4.0, 4.5, 4.5, 4.2])
    monkeypatch.setattr(Trainer, "held_out_loss", lambda _: next(losses))
    out = tmp_path / "out"
    with pytest.warns(minseek.MinseekWarning, match=rf"lowest after step 1, 4.0000, .* step 1 are in {out}/best"):
        assert tune(str(small), text, out, Settings(**FAST, eval_every=1), device="cpu").finished
    monkeypatch.undo()
    tune(str(small), text, tmp_path / "one", Settings(**{**FAST, "steps": 1}), device="cpu")
    assert weights_in(out / "best") == weights_in(tmp_path / "one")
    assert weights_in(out) != weights_in(out / "best")


def test_a_held_out_loss_that_only_rises_is_told(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, 3.5])
    monkeypatch.setattr(Trainer, "held_out_loss", lambda _: next(losses))
    with pytest.warns(minseek.MinseekWarning, match=r"risen from 2.0000 before training to 3.5000: train less"):
        assert tune(str(small), text, tmp_path / "out", Settings(**FAST), device="cpu").finished


def test_the_last_weights_are_the_best_ones(small: Path, text: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", minseek.MinseekWarning)
        tune(str(small), text, tmp_path / "out", Settings(**FAST, lr=0.3, eval_every=1), device="cpu")
    assert not (tmp_path / "out" / "best").exists()


# Longer runs


@pytest.mark.parametrize(
    "how",
    [
        {"momentum": 0.9, "format": "bf16"},
        {"optimizer": "adamw", "lr": 1e-3},
        {"optimizer": "pisgd", "format": "bf16", "layers": "1,head"},
    ],
    ids=["sgd", "adamw", "pisgd"],
)
def test_a_finished_run_is_lengthened_as_if_it_had_never_ended(
    small: Path, text: Path, tmp_path: Path, how: dict[str, Any]
) -> None:
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    for steps in (2, 3, 6):
        result = tune(str(small), text, parts, Settings(**{**FAST, **how, "steps": steps}), device="cpu")
        assert (result.finished, result.steps) == (True, steps)
    straight = tune(str(small), text, whole, Settings(**{**FAST, **how, "steps": 6}), device="cpu")
    assert weights_in(parts) == weights_in(whole)
    assert (result.tokens, result.loss) == (straight.tokens, straight.loss)
    assert (result.held_out_before, result.held_out_after) == (straight.held_out_before, straight.held_out_after)
    steps_logged = [
        [event["loss"] for event in events(folder) if event["event"] == "step"] for folder in (parts, whole)
    ]
    assert steps_logged[0] == steps_logged[1]


def test_a_longer_run_that_is_stopped_is_resumed_and_leaves_the_finished_model_meanwhile(
    small: Path, text: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    tune(str(small), text, out, Settings(**{**FAST, "steps": 2}), device="cpu")
    before = weights_in(out)
    longer = Settings(**{**FAST, "steps": 6})
    assert not TuneRun(str(small), text, longer, device="cpu").run(out, stop=lambda: True).finished
    assert weights_in(out) == before
    assert tune(str(small), text, out, longer, device="cpu").finished
    tune(str(small), text, whole, longer, device="cpu")
    assert weights_in(out) == weights_in(whole)


def test_a_stopped_run_is_lengthened_too(small: Path, text: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    TuneRun(str(small), text, Settings(**FAST), device="cpu").run(out, stop=lambda: True)
    longer = Settings(**{**FAST, "steps": 6})
    tune(str(small), text, out, longer, device="cpu")
    tune(str(small), text, whole, longer, device="cpu")
    assert weights_in(out) == weights_in(whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "is finished after 4 steps: give more steps to lengthen it"),
        ({"steps": 3}, "is finished after 4 steps"),
        ({"steps": 9, "lr": 0.5}, "lr was 0.01 and is 0.5"),
    ],
)
def test_other_runs_are_refused(small: Path, text: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    out = tmp_path / "out"
    tune(str(small), text, out, Settings(**FAST), device="cpu")
    with pytest.raises(minseek.InputError, match=said):
        tune(str(small), text, out, Settings(**{**FAST, **change}), device="cpu")


def test_a_run_without_its_state_cannot_be_lengthened(small: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tune(str(small), text, out, Settings(**FAST), device="cpu")
    shutil.rmtree(out / "checkpoint")
    with pytest.raises(minseek.InputError, match="without its checkpoint directory it cannot be lengthened"):
        tune(str(small), text, out, Settings(**{**FAST, "steps": 6}), device="cpu")


def test_a_schedule_of_another_length_is_told(small: Path, text: Path, tmp_path: Path) -> None:
    for steps in (2, 4):
        settings = Settings(**{**FAST, "steps": steps, "schedule": "linear"})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tune(str(small), text, tmp_path / "out", settings, device="cpu")
        told = [str(warning.message) for warning in caught if "schedule linear" in str(warning.message)]
        assert bool(told) == (steps == 4)
