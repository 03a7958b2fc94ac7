"""Capture and replay of decoding passes as CUDA graphs: one launch in place of a thousand small ones."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

CaptureFn = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function that only computes on tensors and returns one that repeats it in the same memory.

Capturing does not execute the function; no visible state changes."""

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps input rows [B, n], int64, to logits [B, vocab] and hidden states [B, hidden], float32."""

_MAX_GRAPHS = 32  # the least recently used one is dropped


class CaptureError(RuntimeError):
    """A pass could not be captured; it has not been executed."""


def uses_cuda_graphs(device: torch.device) -> bool:
    """True if decoding passes are captured on this device; ``MINSEEK_CUDA_GRAPHS=0`` turns it off."""
    return device.type == "cuda" and os.environ.get("MINSEEK_CUDA_GRAPHS") != "0"


def graph_capturer(device: torch.device) -> CaptureFn | None:
    """Capture function for a device, or None if passes are not captured there."""
    return cuda_graph_capturer(device) if uses_cuda_graphs(device) else None


def cuda_graph_capturer(device: torch.device) -> CaptureFn:
    """Capture function for CUDA graphs that share one memory pool: no two of them ever run at the same time."""
    with torch.cuda.device(device):
        stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
    first: list[torch.cuda.CUDAGraph] = []

    def capture_graph(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.disable()  # a graph freed during the capture would end it
        try:
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),  # restored even if capturing fails
                torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"),
            ):
                run()
        finally:
            if collects:
                gc.enable()
        return graph

    def capture(run: Callable[[], None]) -> Callable[[], None]:
        if not first:  # the pool exists as long as any graph in it, and the next graph needs it
            first.append(capture_graph(lambda: _fill(1, device)))
        return capture_graph(run).replay

    return capture


def _fill(size: int, device: torch.device) -> None:
    torch.zeros(size, dtype=torch.uint8, device=device)


class CudaGraphCache:
    """CUDA graphs of passes over slots of one pool; the first pass with a key runs eagerly, the second is captured.

    Parameters
    ----------
    capture : CaptureFn
    logits, hidden : Tensor
        Float32, [slots, vocab] and [slots, hidden]: output buffers of the graphs.
    workspace_bytes : int
        Bytes of intermediate results of the largest pass. Reserved at once: small passes come first, and blocks as
        small as theirs could not be reused by larger ones.
    """

    def __init__(self, capture: CaptureFn, logits: Tensor, hidden: Tensor, workspace_bytes: int) -> None:
        self._capture, self._logits, self._hidden = capture, logits, hidden
        self._workspace_bytes = workspace_bytes
        self._pool_holder: Callable[[], None] | None = None  # never replayed: the other graphs share its memory
        self._graphs: dict[Hashable, tuple[Tensor, Callable[[], None]] | None] = {}  # None: not captured yet

    def run(self, key: Hashable, input_rows: Sequence[Sequence[int]], forward: Pass) -> tuple[Tensor, Tensor]:
        """Outputs of `forward` for these inputs, valid until the next pass; passes with one key differ only in them.

        Raises
        ------
        CaptureError
            If the pass cannot be captured.
        """
        given = torch.tensor(input_rows)
        if key not in self._graphs:  # libraries initialize themselves in this pass, which cannot be captured
            if len(self._graphs) == _MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = None
            return forward(given.to(self._logits.device))
        inputs, replay = self._graphs.pop(key) or self._captured(given.to(self._logits.device), forward)
        self._graphs[key] = inputs, replay
        inputs.copy_(given)
        replay()
        return self._logits[: len(given)], self._hidden[: len(given)]

    def _captured(self, inputs: Tensor, forward: Pass) -> tuple[Tensor, Callable[[], None]]:
        """Input buffer of a new graph, and the function that replays the graph on its content."""

        def run() -> None:
            logits, hidden = forward(inputs)
            self._logits[: len(logits)].copy_(logits)
            self._hidden[: len(hidden)].copy_(hidden)

        try:
            if self._pool_holder is None:
                self._pool_holder = self._capture(lambda: _fill(self._workspace_bytes, self._logits.device))
            return inputs, self._capture(run)
        except RuntimeError as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the last error only says that there was an earlier one
                cause = cause.__context__
            raise CaptureError(str(cause).partition("\n")[0]) from error
