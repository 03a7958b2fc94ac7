"""One step after the other: gradients of a step's passes, its update, and the held-out loss between steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.tune.batches import Order, collate
from minseek.tune.examples import Example
from minseek.tune.loss import add_gradients, loss_sum
from minseek.tune.optimizers import clip_gradients, make_optimiser
from minseek.tune.schedule import learning_rate
from minseek.tune.settings import Settings


class Trainer:
    """Trains a model in place.

    Parameters
    ----------
    model
        A transformers causal language model.
    trained : sequence of Parameter
        What of it is trained; their gradients are made here, and stay.
    examples, held_out : sequence of Example
        To learn, and to measure the loss of.
    order : Order
        Of `examples`.

    Attributes
    ----------
    optimiser : Optimizer
        With its state.
    after_pass : callable
        Called after every pass.
    """

    def __init__(
        self,
        model: Any,
        trained: Sequence[nn.Parameter],
        examples: Sequence[Example],
        held_out: Sequence[Example],
        order: Order,
        settings: Settings,
    ) -> None:
        self._model, self._trained, self._settings = model, trained, settings
        self._examples, self._held_out, self._order = examples, held_out, order
        self.after_pass: Callable[[], None] = lambda: None
        self._device = trained[0].device
        self.optimiser = make_optimiser(trained, settings)
        for weight in trained:
            weight.grad = torch.zeros_like(weight)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        s = self._settings
        assert s.lr is not None
        return learning_rate(s.lr, s.schedule, step, self._order.steps, s.warmup)

    def step(self, step: int) -> tuple[float, int]:
        """Take a step: mean loss of its targets before it (of all samples of pisgd), and tokens read.

        Each perturbed sample of pisgd is a gradient of the same examples.

        Raises
        ------
        InputError
            If the loss is not finite; the weights are then of no use.
        """
        passes = [[self._examples[index] for index in chosen] for chosen in self._order.passes(step)]
        targets = sum(int(example.learn[1:].sum()) for chosen in passes for example in chosen)
        losses: list[float] = []

        def closure() -> Tensor:
            for weight in self._trained:
                assert weight.grad is not None
                weight.grad.zero_()
            loss = torch.zeros((), device=self._device)
            for chosen in passes:
                loss += add_gradients(self._model, collate(chosen, self._device), 1 / targets)
                self.after_pass()
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise InputError(f"the loss of step {step + 1} is not finite: give a smaller learning rate")
            if self._settings.clip is not None:
                clip_gradients(self._trained, self._settings.clip)
            return loss

        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        cast("Any", self.optimiser).step(closure)  # its closure may return a tensor
        tokens = sum(len(example.ids) for chosen in passes for example in chosen)
        return sum(losses) / len(losses), tokens

    def held_out_loss(self) -> float | None:
        """Mean loss of all held-out targets; None if nothing is held out."""
        if not self._held_out:
            return None
        total, targets, size = 0.0, 0, self._settings.batch
        for start in range(0, len(self._held_out), size):
            batch = collate(self._held_out[start : start + size], self._device)
            total += float(loss_sum(self._model, batch))
            targets += len(batch.targets)
            self.after_pass()
        return total / targets
