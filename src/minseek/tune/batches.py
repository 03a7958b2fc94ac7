"""Which examples each pass of a run reads, and their padded tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.tune.examples import Example


@dataclass(frozen=True)
class Batch:
    """One pass.

    Attributes
    ----------
    ids : Tensor
        [B, T], int64, padded on the right with zeros, which nothing reads.
    where : Tensor
        [n], int64: places in the flattened `ids` whose next token is to be predicted.
    targets : Tensor
        [n], int64: those next tokens.
    """

    ids: Tensor
    where: Tensor
    targets: Tensor


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pad examples to the longest."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    where = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        where.append(example.learn[1:].nonzero()[:, 0] + row * longest)
    places = torch.cat(where)
    return Batch(ids.to(device), places.to(device), ids.flatten()[places + 1].to(device))


class Order:
    """The order of examples: every epoch a permutation of its own, one behind the other, cut into steps and passes.

    Parameters
    ----------
    count : int
        Examples.
    batch, accumulate : int
        Examples of a pass, passes of a step.
    steps, epochs : int or None, float or None
        How long the run is; after whole or broken epochs the last step is shorter.
    seed : int
        The place in the order is a function of seed and step alone: a resumed run needs no state.
    """

    def __init__(
        self, count: int, batch: int, accumulate: int, *, steps: int | None, epochs: float | None, seed: int
    ) -> None:
        self._count, self._batch, self._seed = count, batch, seed
        self._per_step = batch * accumulate
        self.total = steps * self._per_step if steps is not None else max(1, round((epochs or 1.0) * count))
        self.steps = math.ceil(self.total / self._per_step)

    def passes(self, step: int) -> list[list[int]]:
        """Numbers of the examples of each pass of a step, from 0."""
        first = step * self._per_step
        end = min(first + self._per_step, self.total)
        chosen = [self._at(place) for place in range(first, end)]
        return [chosen[start : start + self._batch] for start in range(0, len(chosen), self._batch)]

    def _at(self, place: int) -> int:
        epoch, index = divmod(place, self._count)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
            self._epoch, self._shuffled = epoch, torch.randperm(self._count, generator=generator).tolist()
        return int(self._shuffled[index])
