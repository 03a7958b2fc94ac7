"""Examples, settings and weights for the tests of tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from minseek.tune.examples import Example
from minseek.tune.trainable import select_layers

CPU = torch.device("cpu")
FAST = {"max_length": 32, "gradient_accumulation_steps": 2, "steps": 4, "format": "float32"}


def random_examples(count: int, seed: int = 0) -> list[Example]:
    """Random sequences of many lengths, each with a random loss mask."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(2, 40, (), generator=generator))
        loss_mask = torch.rand(length, generator=generator) < 0.6
        loss_mask[-1] = True
        made.append(Example(torch.randint(256, (length,), generator=generator, dtype=torch.int32), loss_mask))
    return made


def labels(items: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded tokens and transformers' labels."""
    longest = max(len(item.ids) for item in items)
    ids, wanted = torch.zeros(len(items), longest, dtype=torch.int64), torch.full((len(items), longest), -100)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = item.ids
        wanted[row, : len(item.ids)] = torch.where(item.loss_mask, item.ids, -100)
    return ids, wanted


def weights_in(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def with_gradients(model: Any, layers: str | None = None) -> Any:
    for weight in select_layers(model, layers):
        weight.grad = torch.zeros_like(weight)
    return model
