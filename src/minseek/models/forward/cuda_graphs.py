"""Passes that are recorded once and replayed: a GPU is told what to do in one go, not operation by operation."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

CaptureFn = Callable[[Callable[[], None]], Callable[[], None]]
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


def graph_capturer(device: torch.device) -> CaptureFn | None:
    """What records on a device; None where passes are not recorded."""
    return cuda_graphs(device) if records_on(device) else None


def cuda_graphs(device: torch.device) -> CaptureFn:
    """Records CUDA graphs, all in one memory pool: no two of them ever run at the same time."""
    with torch.cuda.device(device):
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
    first: list[torch.cuda.CUDAGraph] = []

    def capture(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.disable()  # a graph that is freed meanwhile would end the recording
        try:
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),  # is taken again also if capturing fails
                torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
            ):
                run()
        finally:
            if collects:
                gc.enable()
        return graph

    def record(run: Callable[[], None]) -> Callable[[], None]:
        if not first:  # the pool is there as long as any graph in it, and must be there for the next one
            first.append(capture(lambda: _fill(1, device)))
        return capture(run).replay

    return record


def _fill(size: int, device: torch.device) -> None:
    torch.zeros(size, dtype=torch.uint8, device=device)


class CudaGraphCache:
    """Passes over slots of one store: the first of a kind is carried out as it is, the second is recorded.

    Parameters
    ----------
    record : Record
    logits, hidden : Tensor
        Float32, [slots, vocabulary] and [slots, hidden]: where a recorded pass writes what it gives.
    room : int
        Bytes that the largest pass makes on its way. Taken at once: small passes come first, and what each of them
        took would be too small for the next.
    """

    def __init__(self, record: CaptureFn, logits: Tensor, hidden: Tensor, room: int) -> None:
        self._record, self._logits, self._hidden, self._room = record, logits, hidden, room
        self._held: Callable[[], None] | None = None  # never replayed: the others share its memory
        self._kinds: dict[Hashable, tuple[Tensor, Callable[[], None]] | None] = {}  # None: not recorded yet

    def capture_fn(self, kind: Hashable, numbers: Sequence[Sequence[int]], run: Pass) -> tuple[Tensor, Tensor]:
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
            if self._held is None:
                self._held = self._record(lambda: _fill(self._room, self._logits.device))
            return numbers, self._record(whole)
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the last one only says that there was one before
                cause = cause.__context__
            raise RecordingError(str(cause).partition("\n")[0]) from error
