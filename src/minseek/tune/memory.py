"""Memory meters: bytes of live tensors, counted as they are made, and memory of the process or device."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from minseek.models.process_memory import peak_resident_bytes, resident_bytes, trim_heap


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that operations make inside its context, until they are freed.

    Works on real tensors and inside torch's ``FakeTensorMode``, where nothing is allocated. Buffers that an operation
    allocates and frees before it returns are not counted.

    Attributes
    ----------
    live, peak : int
        Bytes now, and their maximum so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def note(self, tensor: Tensor) -> None:
        """Count a tensor's memory, once for all its views."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key, size)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for item in tree_iter(made):
            if isinstance(item, Tensor):
                self.note(item)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class MemoryMeter(Protocol):
    """Interface of meters for the memory of a run."""

    def peak(self) -> int | None:
        """Peak since the meter was made, bytes; None where it cannot be measured."""


class DeviceMeter:
    """Memory that torch's allocator uses on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        torch.cuda.reset_peak_memory_stats(device)
        self._before = torch.cuda.memory_allocated(device)

    def peak(self) -> int | None:
        """Peak since the meter was made, bytes."""
        return int(torch.cuda.max_memory_allocated(self._device)) - self._before


class ProcessMeter:
    """Growth of this process's resident memory, as Linux counts it."""

    def __init__(self) -> None:
        gc.collect()
        trim_heap()
        self._before = resident_bytes()
        self._highest = 0
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
            self._marked = True
        except OSError:
            self._marked = False

    def peak(self) -> int | None:
        """Peak since the meter was made, bytes."""
        now = peak_resident_bytes() if self._marked else resident_bytes()
        if now is None or self._before is None:
            return None
        self._highest = max(self._highest, now - self._before)
        return self._highest
