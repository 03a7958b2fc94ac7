"""The memory of a run, before it: weights, gradients, state and activations, to the byte of every tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minseek.errors import InputError
from minseek.tune.batches import Batch
from minseek.tune.loss import add_gradients
from minseek.tune.memory import LiveTensors
from minseek.tune.model import build, checkpoint_layers
from minseek.tune.settings import Settings
from minseek.tune.trainable import select_layers
from minseek.units import format_bytes

STEP_BYTES = 16 * 2**20  # what an optimiser's step works with, piece by piece
WORKSPACE = 64 * 2**20  # kernels' own buffers, threads' stacks, the interpreter's objects; see docs
_SHORTEST = 32


@dataclass(frozen=True)
class TunePlan:
    """Bytes of a run.

    Attributes
    ----------
    parameters, trained : int
        Weights of the model, and those of them that are trained; numbers, not bytes.
    weights, gradients, state : int
        Of the model, of what is trained, and of the optimiser.
    activations : int
        What a pass of the largest batch holds beside them at its peak, or the optimiser's step if that takes more.
    workspace : int
        Allowed for what no tensor shows: buffers inside kernels, and the program's own growth.
    length, batch : int
        Tokens of a sequence and sequences of a pass that this is for.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    state: int
    activations: int
    workspace: int
    length: int
    batch: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.state + self.activations + self.workspace

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self) | {"total": self.total}

    def __str__(self) -> str:
        trained = "all" if self.trained == self.parameters else f"{self.trained:,}"
        lines = (
            ("weights", self.weights, f"{self.parameters:,} parameters, {trained} trained"),
            ("gradients", self.gradients, ""),
            ("state", self.state, "of the optimiser"),
            ("activations", self.activations, f"of a pass: {self.batch} x {self.length} tokens"),
            ("workspace", self.workspace, "allowed for kernels and the program"),
            ("total", self.total, f"{(self.total - self.activations - self.workspace) / self.trained:.2f} bytes a "
             "trained parameter, activations and workspace aside"),
        )  # fmt: skip
        return "\n".join(f"{name:<12}{format_bytes(size):>9}  {note}".rstrip() for name, size, note in lines)


def plan_tuning(config: Any, settings: Settings, *, length: int, batch: int, device: torch.device) -> TunePlan:
    """Count the tensors of one pass of the run's own code, on tensors without memory.

    Parameters
    ----------
    config
        Of the model.
    length, batch : int
        Tokens of the longest sequence, sequences of the largest pass.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device(device):
        model = build(config, settings.dtype)
        trained = select_layers(model, settings.layers)
        if settings.gradient_checkpointing:
            checkpoint_layers(model)
        ids = torch.zeros(batch, length, dtype=torch.int64)
        where = torch.zeros(batch * (length - 1), dtype=torch.int64)
        peak = count_pass(model, trained, Batch(ids, where, torch.zeros_like(where)))
    parameters = list(model.parameters())
    weights, gradients = (sum(p.nbytes for p in group) for group in (parameters, trained))
    return TunePlan(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in trained),
        weights=weights,
        gradients=gradients,
        state=sum(state_bytes(settings) * p.numel() for p in trained),
        activations=max(
            peak - weights - gradients, STEP_BYTES + _step_bytes(settings) * max(p.numel() for p in trained)
        ),
        workspace=WORKSPACE,
        length=length,
        batch=batch,
    )


def count_pass(model: Any, trained: list[Any], batch: Batch) -> int:
    """Highest bytes of tensors in a pass, weights and gradients included; gradients are made if there are none."""
    counter = LiveTensors()
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    held: list[Tensor] = [*model.parameters(), *(weight.grad for weight in trained)]
    for tensor in held:
        counter.note(tensor)
    with counter:
        add_gradients(model, batch, 1.0)
    return counter.peak


def state_bytes(settings: Settings) -> int:
    """Bytes that the optimiser keeps for each trained parameter."""
    size = settings.dtype.itemsize
    if settings.optimizer == "adamw":
        return 2 * size
    momentum = size if settings.momentum else 0
    if settings.optimizer == "pisgd":
        return momentum + size + (4 if settings.samples != 1 else 0)
    return momentum


def _step_bytes(settings: Settings) -> int:
    """Bytes that a step takes for each element of the largest tensor: PyTorch's own steps in float32 make copies."""
    passing = 4 if settings.optimizer == "pisgd" and settings.samples != 1 else 0
    if settings.format == "float32":
        copies = 2 if settings.optimizer == "adamw" else bool(settings.momentum) + bool(settings.weight_decay)
        passing = max(passing, 4 * copies)
    return passing


def check_budget(plan: TunePlan, budget: int, config: Any, settings: Settings, device: torch.device) -> None:
    """Refuse a run that does not fit, and say what would.

    Raises
    ------
    InputError
        With both sizes, and the settings that were found to fit.
    """
    if plan.total <= budget:
        return

    def fits(changed: Settings, length: int, batch: int) -> bool:
        return plan_tuning(config, changed, length=length, batch=batch, device=device).total <= budget

    has, needs = format_bytes(budget), format_bytes(plan.total)
    lean = replace(settings, gradient_checkpointing=True)
    halves = [plan.length >> power for power in range(1, 20) if plan.length >> power >= _SHORTEST]
    ways = []
    if not settings.gradient_checkpointing and fits(lean, plan.length, plan.batch):
        ways.append("gradient checkpointing (--gradient-checkpointing)")
    if plan.batch > 1 and fits(settings, plan.length, 1):
        ways.append("a batch of 1 (--batch 1)")
    shorter = next((length for length in halves if fits(settings, length, plan.batch)), None)
    if shorter is not None:
        ways.append(f"a length of {shorter} (--length {shorter})")
    advice = f"{' or '.join(ways)} would make it fit"
    if not ways:
        lengths = (plan.length, *halves)
        together = next((length for length in lengths if fits(lean, length, 1)), None)
        advice = f"--gradient-checkpointing, --batch 1 and --length {together} together would make it fit"
        if together is None:
            least = plan_tuning(config, lean, length=lengths[-1], batch=1, device=device)
            fixed = least.weights + least.gradients + least.state
            advice = (
                f"even with --gradient-checkpointing, --batch 1 and --length {lengths[-1]} it takes "
                f"{format_bytes(least.total)}, {format_bytes(fixed)} of it weights, gradients and state; train fewer "
                "layers (--layers), or give more memory"
            )
    raise InputError(f"the run takes {needs}, and the memory budget is {has}: {advice}")
