"""A CUDA graph's stand-in where there is no GPU: it repeats recorded operations in the same memory, and nothing else.

What Python did while they were recorded is not done again, and what they wrote is rubbish until they are repeated. What
a stream that is being captured refuses, the tape refuses, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_REFUSED = {
    "aten::_local_scalar_dense": "reads a number from the device",
    "aten::is_nonzero": "reads a number from the device",
    "aten::equal": "reads a number from the device",
    "aten::nonzero": "has a size that depends on the data",
    "aten::masked_select": "has a size that depends on the data",
    "aten::repeat_interleave": "has a size that depends on the data",
    "aten::lift_fresh": "copies a Python list to the device",
}


def tape(run: Callable[[], None]) -> Callable[[], None]:
    """Record a function: a `CaptureFn` of `minseek.models.forward.cuda_graphs`."""
    with _Recording() as recording:
        run()
    recording.undo()
    return recording.replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, list[Tensor]]] = []  # views need no repeating
        self._own: set[int] = set()  # storages of what was made while recording
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name in _REFUSED:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name} {_REFUSED[name]}")
        indices = args[1] if name.startswith("aten::index") and isinstance(args[1], (list, tuple)) else ()
        if any(t is not None and t.dtype == torch.bool for t in indices):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name} with a mask")
        for tensor in _written(func, args, kwargs):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = func(*args, **kwargs)
        made = [] if _is_view(func) or _written(func, args, kwargs) else _tensors(out)
        self._own.update(tensor.untyped_storage().data_ptr() for tensor in made)
        if not _is_view(func):
            self._steps.append((func, args, kwargs, made))
        return out

    def undo(self) -> None:
        """Nothing has happened."""
        for storage, before in self._before.values():
            storage.copy_(before)
        self._spoil()

    def replay(self) -> None:
        for func, args, kwargs, made in self._steps:
            again = func(*args, **kwargs)
            for old, new in zip(made, _tensors(again) if made else (), strict=True):
                old.copy_(new)
        self._spoil()

    def _spoil(self) -> None:
        """Another graph may have that memory."""
        for *_, made in self._steps:
            for tensor in made:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 1)


def _tensors(given: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    named = {a.name: given for a, given in zip(func._schema.arguments, args, strict=False)} | kwargs
    changed = (a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    return _tensors([named.get(name) for name in changed])
