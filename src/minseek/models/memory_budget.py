"""A budget of bytes for the whole process, and its division."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from minseek.errors import InputError
from minseek.models.model import Model
from minseek.models.process_memory import resident_bytes, trim_heap
from minseek.units import format_bytes, parse_bytes

_MEGABYTE = 10**6
RUN_BYTES = 12 * 10**6
"""Bytes that a run of one sequence adds to interpreter and libraries: pages of code that it is the first to call, and
what the C heap keeps (measured: 8 to 11 MB)."""
ENGINE_BYTES = 23 * 10**6
"""Bytes that the engine, its requests and evictions add in the same way (measured: 10 to 19 MB)."""


@dataclass(frozen=True)
class ProcessMemory:
    """Bytes of the whole process at the peak of a run.

    Attributes
    ----------
    interpreter_bytes : int
        Everything but the model: interpreter, libraries and other objects of the process, measured when the plan was
        made, and what a run adds to them (`RUN_BYTES`, `ENGINE_BYTES`).
    weight_bytes : int
        Weights of the model.
    activation_bytes : int
        Workspace, activations and logits of a pass.
    kv_bytes : int
        The cache.
    """

    interpreter_bytes: int
    weight_bytes: int
    activation_bytes: int
    kv_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes in all."""
        return self.interpreter_bytes + self.weight_bytes + self.activation_bytes + self.kv_bytes

    def as_dict(self) -> dict[str, int]:
        """Return the parts and their sum."""
        return vars(self) | {"total_bytes": self.total_bytes}


def memory_budget(model: Model, memory: int | str | None = None) -> int | None:
    """Bytes that the process may take: the model's budget, or less; None is no limit.

    Raises
    ------
    InputError
        If `memory` is more than the budget with which the model was loaded, or this system does not report the memory
        of a process.
    """
    if memory is None:
        return model.memory
    budget = parse_bytes(memory)
    if model.memory is not None and budget > model.memory:
        raise InputError(
            f"a memory of {format_bytes(budget)} is more than the {format_bytes(model.memory)} with which the model "
            "was loaded: give less, or load it with more"
        )
    check_measurable(budget)
    return budget


def refusal(budget: int, least: ProcessMemory) -> str:
    """Say why a budget is too small, and the smallest that would do."""
    parts = (
        (least.interpreter_bytes, "the process without the model"),
        (least.weight_bytes, "weights"),
        (least.activation_bytes, "a pass"),
    )
    sizes = ", ".join(f"{format_bytes(size)} for {name}" for size, name in parts)
    return (
        f"the memory budget of {format_bytes(budget)} is too small: {sizes} and {format_bytes(least.kv_bytes)} for the "
        f"smallest cache are needed; give {megabytes(least.total_bytes)} or more"
    )


def megabytes(size: int) -> str:
    """A size in whole megabytes, rounded up, with one more: a second process is not the same to the last page."""
    return f"{-(-size // _MEGABYTE) + 1}MB"


def check_measurable(budget: int) -> None:
    """Refuse a budget on a system that does not report the memory of a process."""
    if resident_bytes() is None:
        raise InputError(
            f"a memory budget of {format_bytes(budget)} cannot be kept here, as this system does not report the memory "
            "of a process: leave it out, or run on Linux"
        )


def check_weights_fit(name: str, size: int, budget: int, device: torch.device) -> None:
    """Refuse weights of `size` bytes that are still to be read and that the budget does not hold."""
    held = 0 if device.type == "cuda" else resident_bytes() or 0
    if held + size > budget:
        more = megabytes(held + size + RUN_BYTES)
        raise InputError(
            f"the memory budget of {format_bytes(budget)} is too small: the weights of {name} take "
            f"{format_bytes(size)}, and the process {format_bytes(held)} without them; give more than {more} (a plan "
            "without a budget tells how much more)"
        )


def interpreter_bytes(model: Model, run_bytes: int = RUN_BYTES) -> int:
    """Bytes of the process besides the model and its workspace; 0 where the system does not tell.

    `run_bytes` are what the run will add to the interpreter and its libraries.

    On a GPU the budget is one of the device's memory: what PyTorch has allocated there besides the weights.
    """
    device = model.placement.device
    if device.type == "cuda":
        return max(0, torch.cuda.memory_allocated(device) - model.weight_bytes)
    trim_heap()  # what has been freed will be used again
    now = resident_bytes()
    return 0 if now is None else max(0, now - model.resident_bytes) + run_bytes
