"""Training steps: gradients of the passes, the update, and the held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from minseek.errors import InputError
from minseek.tune.batches import BatchSampler, collate
from minseek.tune.examples import Example
from minseek.tune.loss import add_gradients, loss_sum
from minseek.tune.optimizers import clip_gradients, make_optimizer
from minseek.tune.schedule import learning_rate
from minseek.tune.settings import Settings


class DivergedError(InputError):
    """Training that has made the model useless."""


class Trainer:
    """Trains a model in place.

    Parameters
    ----------
    model
        A transformers causal language model.
    trained : sequence of Parameter
        Trained weights; their gradients are allocated here and kept.
    examples, held_out : sequence of Example
        Training examples, and examples for the held-out loss.
    sampler : BatchSampler
        Order of `examples`.

    Attributes
    ----------
    settings : Settings
    optimizer : Optimizer
        The optimizer with its state.
    after_pass : callable
        Called after every pass.
    """

    def __init__(
        self,
        model: Any,
        trained: Sequence[nn.Parameter],
        examples: Sequence[Example],
        held_out: Sequence[Example],
        sampler: BatchSampler,
        settings: Settings,
    ) -> None:
        self._model, self._trained, self.settings = model, trained, settings
        self._examples, self._held_out, self._sampler = examples, held_out, sampler
        self.after_pass: Callable[[], None] = lambda: None
        self._device = trained[0].device
        self.optimizer = make_optimizer(trained, settings)
        for weight in trained:
            weight.grad = torch.zeros_like(weight)

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step; steps count from 0."""
        s = self.settings
        assert s.lr is not None
        return learning_rate(s.lr, s.schedule, step, self._sampler.steps, s.warmup)

    def step(self, step: int) -> tuple[float, int]:
        """Take a step and return the mean loss of its targets before it, and the tokens read.

        All samples of pisgd are gradients of the same examples; their losses are averaged.

        Raises
        ------
        DivergedError
            If the loss is not finite; the weights are then useless.
        """
        passes = [[self._examples[index] for index in chosen] for chosen in self._sampler.passes(step)]
        targets = sum(int(example.loss_mask[1:].sum()) for chosen in passes for example in chosen)
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
                raise DivergedError(f"the loss of step {step + 1} is not finite")
            if self.settings.max_grad_norm is not None:
                clip_gradients(self._trained, self.settings.max_grad_norm)
            return loss

        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        cast("Any", self.optimizer).step(closure)  # its closure may return a tensor
        tokens = sum(len(example.ids) for chosen in passes for example in chosen)
        return sum(losses) / len(losses), tokens

    def held_out_loss(self) -> float | None:
        """Mean loss of all held-out targets; None if nothing is held out."""
        size = self.settings.batch_size
        starts = range(0, len(self._held_out), size)
        return self._mean_loss([self._held_out[start : start + size] for start in starts]) if starts else None

    def first_loss(self) -> float:
        """Mean loss of the examples of the first step, which its own loss was before training."""
        return self._mean_loss([[self._examples[index] for index in chosen] for chosen in self._sampler.passes(0)])

    def _mean_loss(self, passes: Sequence[Sequence[Example]]) -> float:
        total, targets = 0.0, 0
        for chosen in passes:
            batch = collate(chosen, self._device)
            total += float(loss_sum(self._model, batch))
            targets += len(batch.targets)
            self.after_pass()
        return total / targets
