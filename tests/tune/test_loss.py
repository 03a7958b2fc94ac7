"""Loss and gradients of a pass: those of transformers and of PyTorch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from minseek.tune import Settings
from minseek.tune.batches import BatchSampler, collate
from minseek.tune.loss import add_gradients, loss_sum
from minseek.tune.model import checkpoint_layers
from minseek.tune.trainable import select_layers
from minseek.tune.trainer import Trainer
from tests.helpers.tiny_models import ARCHITECTURES, make_reference
from tests.helpers.tuning import CPU, labels, random_examples, with_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minseek.MinseekWarning"),
]


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    "variant", [*ARCHITECTURES, "llama-tied", "llama-biases", "llama-llama3", "qwen2-window", "mistral-window"]
)
def test_loss_and_gradients_are_those_of_transformers(
    variant: str, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minseek.tune.loss._LOGIT_BYTES", 4 * 272 * 11)  # chunks of 11 rows
    items = random_examples(4)
    ids, wanted = labels(items)
    oracle, model = make_reference(variant), with_gradients(make_reference(variant))
    oracle.requires_grad_(True)
    with torch.enable_grad():
        loss = oracle(input_ids=ids, labels=wanted).loss
        loss.backward()
    if checkpointed:
        checkpoint_layers(model)
    batch = collate(items, CPU)
    got = add_gradients(model, batch, 1 / len(batch.targets))
    torch.testing.assert_close(got, loss.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss_sum(model, batch) / len(batch.targets), loss.detach(), rtol=1e-5, atol=0)
    right, found = gradients_of(oracle), gradients_of(model)
    assert found.keys() == right.keys()
    for name, gradient in right.items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-6, msg=name)


def test_bfloat16_gradients_are_as_near_as_autograds() -> None:
    items, exact = random_examples(6), with_gradients(make_reference("llama-tied"))
    ids, wanted = labels(items)
    batch = collate(items, CPU)
    add_gradients(exact, batch, 1 / len(batch.targets))
    model = with_gradients(make_reference("llama-tied").to(torch.bfloat16))
    add_gradients(model, batch, 1 / len(batch.targets))
    plain = make_reference("llama-tied").to(torch.bfloat16).requires_grad_(True)
    with torch.enable_grad():
        plain(input_ids=ids, labels=wanted).loss.backward()
    right = gradients_of(exact)

    def error(found: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float((found[name].float() - right[name]).square().sum()) for name in right))

    size = math.sqrt(sum(float(g.square().sum()) for g in right.values()))
    assert error(gradients_of(model)) < 0.1 * size
    assert error(gradients_of(model)) < 1.2 * error(gradients_of(plain))


def test_passes_add_up_to_one_large_batch() -> None:
    items = random_examples(6)
    one, many = with_gradients(make_reference("qwen3")), with_gradients(make_reference("qwen3"))
    whole = collate(items, CPU)
    loss = add_gradients(one, whole, 1 / len(whole.targets))
    parts = sum(
        float(add_gradients(many, collate(items[at : at + 2], CPU), 1 / len(whole.targets))) for at in (0, 2, 4)
    )
    assert parts == pytest.approx(float(loss), rel=1e-5)
    for name, gradient in gradients_of(one).items():
        torch.testing.assert_close(gradients_of(many)[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_is_that_of_torch_on_the_mean_loss() -> None:
    """Weights after two steps of plain float32 SGD with momentum, clipped, are torch's own."""
    items, settings = (
        random_examples(8),
        Settings(format="float32", lr=0.5, momentum=0.9, weight_decay=0.01, max_grad_norm=0.3),
    )
    sampler = BatchSampler(8, 2, 2, steps=2, epochs=None, seed=0)
    model, oracle = make_reference("llama"), make_reference("llama").requires_grad_(True)
    trainer = Trainer(model, select_layers(model, None), items, [], sampler, settings)
    torch_sgd = torch.optim.SGD(oracle.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    for step in range(2):
        chosen = [items[index] for passed in sampler.passes(step) for index in passed]
        ids, wanted = labels(chosen)
        torch_sgd.zero_grad()
        with torch.enable_grad():
            loss = oracle(input_ids=ids, labels=wanted).loss
            loss.backward()
        assert torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.3) > 0.3
        torch_sgd.step()
        got, tokens = trainer.step(step)
        assert got == pytest.approx(float(loss), rel=1e-5)
        assert tokens == sum(len(item.ids) for item in chosen)
    for (name, weight), own in zip(model.named_parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(weight.detach(), own.detach(), rtol=1e-4, atol=1e-5, msg=name)
