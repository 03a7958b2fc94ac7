"""The order in which a run reads its examples, and their padded tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minseek.tune.examples import Example


@dataclass(frozen=True)
class Batch:
    """The tensors of one pass.

    Attributes
    ----------
    ids : Tensor
        [B, T], int64, padded on the right with zeros that nothing reads.
    target_positions : Tensor
        [n], int64: positions in the flattened `ids` whose next token is to be predicted.
    targets : Tensor
        [n], int64: those next tokens.
    """

    ids: Tensor
    target_positions: Tensor
    targets: Tensor


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pad examples to the longest."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.int64)
    positions = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        positions.append(example.loss_mask[1:].nonzero()[:, 0] + row * longest)
    target_positions = torch.cat(positions)
    targets = ids.flatten()[target_positions + 1]
    return Batch(ids.to(device), target_positions.to(device), targets.to(device))


class BatchSampler:
    """Order of the examples: a permutation for each epoch, one after the other, divided into steps and passes.

    Parameters
    ----------
    count : int
        Examples.
    batch_size, accumulation_steps : int
        Examples of a pass, passes of a step.
    steps, epochs : int or None, float or None
        Length of the run; the last step of the given epochs may be shorter.
    seed : int
        The order is a function of seed and step alone: a resumed run needs no state.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulation_steps: int,
        *,
        steps: int | None,
        epochs: float | None,
        seed: int,
    ) -> None:
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._per_step = batch_size * accumulation_steps
        self.total = steps * self._per_step if steps is not None else max(1, round((epochs or 1.0) * count))
        self.steps = math.ceil(self.total / self._per_step)

    def passes(self, step: int) -> list[list[int]]:
        """Indices of the examples of each pass of a step, from 0."""
        first = step * self._per_step
        end = min(first + self._per_step, self.total)
        chosen = [self._index(position) for position in range(first, end)]
        return [chosen[start : start + self._batch_size] for start in range(0, len(chosen), self._batch_size)]

    def _index(self, position: int) -> int:
        epoch, index = divmod(position, self._count)
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) % 2**63)
            self._epoch, self._shuffled = epoch, torch.randperm(self._count, generator=generator).tolist()
        return int(self._shuffled[index])
