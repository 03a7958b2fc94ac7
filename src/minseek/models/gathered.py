"""All weights of a model in one piece of memory."""

from __future__ import annotations

from torch import Tensor

from minseek.native.pages import huge_bytes

_APART = 64  # bytes: every tensor begins at a cache line


def gather_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of CPU tensors, one behind the other on huge pages; tensors that share their memory still do.

    The dictionary is emptied meanwhile, so that what nobody else holds is freed as soon as it is copied.
    """
    sizes = {_where(t): -(-t.nbytes // _APART) * _APART for t in weights.values()}
    room, at = huge_bytes(sum(sizes.values())), 0
    copies: dict[tuple[object, ...], Tensor] = {}
    gathered = {}
    for name in list(weights):
        tensor = weights.pop(name)
        where = _where(tensor)
        if where not in copies:
            copies[where] = room[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copies[where].copy_(tensor)
            at += sizes[where]
        gathered[name] = copies[where]
    return gathered


def _where(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
