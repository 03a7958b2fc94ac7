"""Passes that are recorded once and replayed: a GPU is told what to do in one go, not operation by operation."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function that does nothing but compute on tensors, and returns one that repeats it in the same memory.

The function itself has not been carried out then: nothing has changed but memory that only it knows."""

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From numbers [B, n], int64, to logits [B, vocabulary] and hidden states [B, hidden], float32."""

_KINDS = 32  # of passes that are remembered; the one that was not taken for longest is forgotten


class RecordingError(RuntimeError):
    """A pass could not be recorded; it has not been carried out."""


def records_on(device: torch.device) -> bool:
    """Whether passes are recorded there. ``MINSEEK_CUDA_GRAPHS=0`` turns it off."""
    return device.type == "cuda" and os.environ.get("MINSEEK_CUDA_GRAPHS") != "0"


def recorder(device: torch.device) -> Record | None:
    """What records on a device; None where passes are not recorded."""
    return cuda_graphs(device) if records_on(device) else None


def cuda_graphs(device: torch.device) -> Record:
    """Records CUDA graphs, all in one memory pool: no two of them ever run at the same time."""
    with torch.cuda.device(device):
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]

    def record(run: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            run()
        return graph.replay

    return record


class Recordings:
    """Passes over slots of one pool: the first of a kind is carried out as it is, the second is recorded.

    Parameters
    ----------
    record : Record
    logits, hidden : Tensor
        Float32, [slots, vocabulary] and [slots, hidden]: where a recorded pass writes what it gives.
    """

    def __init__(self, record: Record, logits: Tensor, hidden: Tensor) -> None:
        self._record, self._logits, self._hidden = record, logits, hidden
        self._kinds: dict[Hashable, tuple[Tensor, Callable[[], None]] | None] = {}  # None: not recorded yet

    def carry_out(self, kind: Hashable, numbers: Sequence[Sequence[int]], run: Pass) -> tuple[Tensor, Tensor]:
        """What `run` gives for these numbers; passes of one kind differ in nothing else. Valid until the next pass.

        Raises
        ------
        RecordingError
            If the pass cannot be recorded.
        """
        given = torch.tensor(numbers)
        if kind not in self._kinds:  # libraries prepare themselves in it, which can't be recorded
            if len(self._kinds) == _KINDS:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[kind] = None
            return run(given.to(self._logits.device))
        own, replay = self._kinds.pop(kind) or self._recorded(given.to(self._logits.device), run)
        self._kinds[kind] = own, replay
        own.copy_(given)
        replay()
        return self._logits[: len(given)], self._hidden[: len(given)]

    def _recorded(self, numbers: Tensor, run: Pass) -> tuple[Tensor, Callable[[], None]]:
        """A place for the numbers of passes of this kind, and what carries out one with those that stand there."""

        def whole() -> None:
            logits, hidden = run(numbers)
            self._logits[: len(logits)].copy_(logits)
            self._hidden[: len(hidden)].copy_(hidden)

        try:
            return numbers, self._record(whole)
        except RuntimeError as error:
            raise RecordingError(str(error)) from error
