"""Memory plan of a run: equal to the live tensors of a pass, and kept on real memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import minseek
from minseek.tune import Settings, TuneRun
from minseek.tune.batches import Batch
from minseek.tune.memory import LiveTensors, ProcessMeter
from minseek.tune.model import checkpoint_layers
from minseek.tune.optimizers import make_optimizer
from minseek.tune.plan import peak_of_pass, plan_tuning
from minseek.tune.trainable import select_layers
from tests.helpers.tiny_models import ARCHITECTURES, make_reference, save
from tests.helpers.tuning import CPU, FAST, weights_in, with_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]


def test_live_tensors_are_counted_until_they_are_freed() -> None:
    counter, size = LiveTensors(), 4 * 1000
    with counter:
        a = torch.zeros(1000)
        view = a[10:20]
        assert counter.live == size
        b = a + 1
        del a
        assert counter.live == 2 * size  # the view keeps it
        del view
        assert counter.live == size
        c = (b * 2) * 3
        del c
    assert counter.live == size
    assert counter.peak == 3 * size


@pytest.mark.parametrize(
    ("variant", "layers"),
    [
        *((variant, None) for variant in (*ARCHITECTURES, "llama-tied", "qwen2-window", "mistral-window")),
        *(("llama", layers) for layers in ("1", "head", "2,norm", "0,embedding")),
    ],
)
@pytest.mark.parametrize("lean", [False, True])
def test_the_plan_counts_what_a_pass_really_holds(variant: str, lean: bool, layers: str | None) -> None:
    model = make_reference(variant).to(torch.bfloat16)
    settings = Settings(gradient_checkpointing=lean, layers=layers)
    plan = plan_tuning(model.config, settings, length=48, batch_size=3, device=CPU)
    if lean:
        checkpoint_layers(model)
    trained = select_layers(model, layers)
    ids = torch.randint(256, (3, 48))
    where = torch.arange(3 * 48).view(3, 48)[:, :-1].flatten()
    batch = Batch(ids, where, ids.flatten()[where + 1])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minseek.tune.plan.STEP_BYTES", 0)  # it covers all activations of so small a model
        planned = plan_tuning(model.config, settings, length=48, batch_size=3, device=CPU)
    assert planned.weights == sum(weight.nbytes for weight in model.parameters())
    assert planned.gradients == sum(weight.nbytes for weight in trained)
    assert planned.weights + planned.gradients + planned.activations == peak_of_pass(model, trained, batch)
    assert plan.activations == 16 * 2**20
    assert (plan.parameters, plan.state) == (sum(weight.numel() for weight in model.parameters()), 0)


def test_state_in_plans_is_what_optimizers_keep() -> None:
    kinds = [
        Settings(momentum=0.5),
        Settings(optimizer="adamw"),
        Settings(optimizer="adamw", format="float32"),
        Settings(optimizer="pisgd", momentum=0.5),
    ]
    for settings in kinds:
        model = with_gradients(make_reference("llama").to(settings.dtype))
        optimizer = make_optimizer(select_layers(model, None), settings)
        optimizer.step(lambda: torch.zeros(()))
        kept = sum(
            value.nbytes
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor) and value.numel() > 1
        )
        passing = settings.dtype.itemsize if settings.optimizer == "pisgd" else 0
        plan = plan_tuning(model.config, settings, length=16, batch_size=1, device=CPU)
        assert plan.state == kept + passing * plan.trained


def test_checkpointing_holds_less_and_the_logits_are_never_whole() -> None:
    config = make_reference("llama", num_hidden_layers=8, vocab_size=20_000).config
    sizes = {
        lean: plan_tuning(
            config, Settings(gradient_checkpointing=lean), length=512, batch_size=4, device=CPU
        ).activations
        for lean in (False, True)
    }
    assert sizes[True] < 0.6 * sizes[False]
    assert sizes[True] < 4 * 512 * 20_000 * 4  # bytes of all logits in float32


def test_the_plan_holds_on_real_memory(tmp_path: Path) -> None:
    """A model large enough to show: 40 MB of weights."""
    sizes = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "head_dim": 64, "vocab_size": 8000}
    folder = save(tmp_path / "model", "llama", num_attention_heads=8, closes=1.0, **sizes)
    (tmp_path / "d.txt").write_text("a few words of no importance; " * 100)
    settings = Settings(max_length=256, batch_size=2, gradient_accumulation_steps=2, steps=2, eval_share=0)
    tuning = TuneRun(str(folder), tmp_path / "d.txt", settings, device="cpu")
    budget = tuning.plan.total
    outcome = tuning.run(tmp_path / "out", memory_budget=budget)
    plan = tuning.plan
    assert outcome.finished
    assert outcome.memory is not None
    assert plan.weights + plan.gradients < outcome.memory < plan.total


def test_a_budget_that_is_too_small_is_refused_with_what_fits(small: Path, text: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("minseek.tune.plan.STEP_BYTES", 0)
        patched.setattr("minseek.tune.plan.WORKSPACE", 0)
        tuning = TuneRun(str(small), text, Settings(max_length=65, batch_size=4, steps=1), device="cpu")
        plan = tuning.plan
        fixed = plan.weights + plan.gradients + plan.state

        def advice(budget: int) -> str:
            with pytest.raises(minseek.InputError) as refused:
                tuning.run(tmp_path / "out", memory_budget=budget)
            return str(refused.value)

        near = advice(plan.total - 1)
        assert "--gradient-checkpointing" in near
        assert "--batch-size 1" in near
        assert "--max-length 32" in near
        lean = replace(tuning.settings, gradient_checkpointing=True)
        one = plan_tuning(tuning.config, lean, length=65, batch_size=1, device=CPU).total
        assert "--gradient-checkpointing, --batch-size 1 and --max-length 65 together" in advice(one)
        assert "it takes" in advice(fixed)
        assert "train fewer layers" in advice(fixed)
        tuning.check_budget(plan.total)
    assert not (tmp_path / "out").exists()


def test_a_run_that_passes_its_budget_stops_with_a_checkpoint(
    small: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning, whole = (TuneRun(str(small), text, Settings(**FAST), device="cpu") for _ in range(2))
    monkeypatch.setattr(ProcessMeter, "peak", lambda _: tuning.plan.total + 1)
    with pytest.raises(minseek.InputError, match="was stopped after step 1, which"):
        tuning.run(tmp_path / "out", memory_budget=tuning.plan.total)
    monkeypatch.undo()
    assert tuning.run(tmp_path / "out").finished
    assert whole.run(tmp_path / "whole").finished
    assert weights_in(tmp_path / "out") == weights_in(tmp_path / "whole")
