"""Memory plan of a run: weights, gradients, optimizer state and activations, counted tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
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

STEP_BYTES = 16 * 2**20  # temporaries of an optimizer's step, which works in chunks
WORKSPACE = 24 * 2**20
"""Bytes that a run adds to the interpreter and its libraries, such as pages of code (measured: 17 MB with `tiny`)."""
_WORKSPACE_SHARE = 1 / 20
"""Bytes of buffers inside kernels, in bytes of weights and gradients (measured with SmolLM2, rounded up)."""
_SHORTEST = 32


@dataclass(frozen=True)
class TunePlan:
    """Bytes that a run takes.

    Attributes
    ----------
    parameters, trained : int
        Number of weights of the model, and of those that are trained.
    weights, gradients, state : int
        Bytes of all weights, of the gradients of trained ones, and of the optimizer's state.
    activations : int
        Further bytes at the peak of a pass of the largest batch, or of the optimizer's step if that takes more.
    workspace : int
        Allowance for memory outside tensors: buffers inside kernels, and growth of the program.
    length, batch_size : int
        Tokens of the longest sequence and sequences of the largest pass.
    interpreter : int
        Bytes of the process without the run, measured; 0 on a GPU, whose memory is planned, and where the system does
        not tell.
    """

    parameters: int
    trained: int
    weights: int
    gradients: int
    state: int
    activations: int
    workspace: int
    length: int
    batch_size: int
    interpreter: int = 0

    @property
    def process_total(self) -> int:
        """Bytes of the whole process."""
        return self.interpreter + self.total

    @property
    def total(self) -> int:
        """Bytes that the run adds to the process."""
        return self.weights + self.gradients + self.state + self.activations + self.workspace

    def as_dict(self) -> dict[str, int]:
        """Values for JSON, with the sums of the run and of the whole process."""
        return {
            "parameters": self.parameters,
            "trained": self.trained,
            "length": self.length,
            "batch_size": self.batch_size,
            "interpreter_bytes": self.interpreter,
            "weight_bytes": self.weights,
            "gradient_bytes": self.gradients,
            "state_bytes": self.state,
            "activation_bytes": self.activations,
            "workspace_bytes": self.workspace,
            "run_bytes": self.total,
            "total_bytes": self.process_total,
        }

    def __str__(self) -> str:
        trained = "all" if self.trained == self.parameters else f"{self.trained:,}"
        lines = (
            ("weights", self.weights, f"{self.parameters:,} parameters, {trained} trained"),
            ("gradients", self.gradients, ""),
            ("state", self.state, "of the optimizer"),
            ("activations", self.activations, f"of a pass: {self.batch_size} x {self.length} tokens"),
            ("workspace", self.workspace, "allowed for kernels and the program"),
            ("run", self.total, f"{(self.total - self.activations - self.workspace) / self.trained:.2f} bytes a "
             "trained parameter, activations and workspace aside"),
            ("process", self.interpreter, "interpreter and libraries, measured"),
            ("in all", self.process_total, ""),
        )  # fmt: skip
        return "\n".join(f"{name:<12}{format_bytes(size):>9}  {note}".rstrip() for name, size, note in lines)


def plan_tuning(config: Any, settings: Settings, *, length: int, batch_size: int, device: torch.device) -> TunePlan:
    """Run one pass on tensors without memory and count them.

    Parameters
    ----------
    config
        Configuration of the model.
    length, batch_size : int
        Tokens of the longest sequence, sequences of the largest pass.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.device(device):
        model = build(config, settings.dtype)
        trained = select_layers(model, settings.layers)
        if settings.gradient_checkpointing:
            checkpoint_layers(model)
        ids = torch.zeros(batch_size, length, dtype=torch.int64)
        positions = torch.zeros(batch_size * (length - 1), dtype=torch.int64)
        peak = peak_of_pass(model, trained, Batch(ids, positions, torch.zeros_like(positions)))
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
        workspace=WORKSPACE + int(_WORKSPACE_SHARE * (weights + gradients)),
        length=length,
        batch_size=batch_size,
    )


def peak_of_pass(model: Any, trained: list[Any], batch: Batch) -> int:
    """Peak of the tensors of a pass, weights and gradients included, bytes; sets the gradients to zero."""
    counter = LiveTensors()
    for weight in trained:
        weight.grad = torch.zeros_like(weight)
    existing: list[Tensor] = [*model.parameters(), *(weight.grad for weight in trained)]
    for tensor in existing:
        counter.note(tensor)
    with counter:
        add_gradients(model, batch, 1.0)
    return counter.peak


def state_bytes(settings: Settings) -> int:
    """Bytes of optimizer state for each trained parameter."""
    size = settings.dtype.itemsize
    if settings.optimizer == "adamw":
        return 2 * size
    momentum = size if settings.momentum else 0
    if settings.optimizer == "pisgd":
        return momentum + size + (4 if settings.samples != 1 else 0)
    return momentum


def _step_bytes(settings: Settings) -> int:
    """Temporary bytes of a step for each element of the largest tensor: PyTorch's float32 steps make copies."""
    temporary = 4 if settings.optimizer == "pisgd" and settings.samples != 1 else 0
    if settings.format == "float32":
        copies = 2 if settings.optimizer == "adamw" else bool(settings.momentum) + bool(settings.weight_decay)
        temporary = max(temporary, 4 * copies)
    return temporary


def check_budget(
    plan: TunePlan, budget: int, config: Any, settings: Settings, device: torch.device, *, whole: bool = False
) -> None:
    """Refuse a run that does not fit, and name settings that would.

    Parameters
    ----------
    whole : bool
        The budget is that of the whole process.

    Raises
    ------
    InputError
        If the plan is larger than the budget; it gives both sizes and the settings that fit.
    """
    takes, process = (plan.process_total, plan.interpreter) if whole else (plan.total, 0)
    if takes <= budget:
        return

    def fits(changed: Settings, length: int, batch_size: int) -> bool:
        return (
            plan_tuning(config, changed, length=length, batch_size=batch_size, device=device).total <= budget - process
        )

    has, needs = format_bytes(budget), format_bytes(takes)
    lean = replace(settings, gradient_checkpointing=True)
    halves = [plan.length >> power for power in range(1, 20) if plan.length >> power >= _SHORTEST]
    ways = []
    if not settings.gradient_checkpointing and fits(lean, plan.length, plan.batch_size):
        ways.append("gradient checkpointing (--gradient-checkpointing)")
    if plan.batch_size > 1 and fits(settings, plan.length, 1):
        ways.append("a batch of 1 (--batch-size 1)")
    shorter = next((length for length in halves if fits(settings, length, plan.batch_size)), None)
    if shorter is not None:
        ways.append(f"a length of {shorter} (--max-length {shorter})")
    advice = f"{' or '.join(ways)} would make it fit"
    if not ways:
        lengths = (plan.length, *halves)
        together = next((length for length in lengths if fits(lean, length, 1)), None)
        advice = f"--gradient-checkpointing, --batch-size 1 and --max-length {together} together would make it fit"
        if together is None:
            least = plan_tuning(config, lean, length=lengths[-1], batch_size=1, device=device)
            fixed = least.weights + least.gradients + least.state
            advice = (
                f"even with --gradient-checkpointing, --batch-size 1 and --max-length {lengths[-1]} it takes "
                f"{format_bytes(least.total + process)}, {format_bytes(fixed)} of it weights, gradients and state; "
                "train fewer layers (--layers), or give more memory"
            )
    what = (
        f"the process takes {needs}, {format_bytes(process)} of it without the run"
        if whole
        else f"the run takes {needs}"
    )
    raise InputError(f"{what}, and the memory budget is {has}: {advice}")
