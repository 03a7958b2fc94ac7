"""The memory of a batch: its slots, and the rest of the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minseek.cache import SlotShape
from minseek.cache.policies import Policy
from minseek.models import Model
from minseek.units import format_bytes, format_count

MAX_BATCHED_TOKENS = 512  # tokens in one pass, of all sequences together
PROMPT_CHUNK = 128  # tokens of one sequence in one pass


@dataclass(frozen=True)
class BatchPlan:
    """Memory of a batch.

    Attributes
    ----------
    slot : SlotShape
        Cache of one sequence.
    slots : int
        Sequences in flight at once.
    kv_budget : int
        Bytes that all slots together may take.
    policy : Policy or None
        Eviction policy; None never evicts.
    interpreter_bytes, weight_bytes, activation_bytes : int
        Bytes of the process without the model, as `minseek.models.memory_budget.interpreter_bytes` measures them, of
        the model, and of the activations and logits of one pass.
    model : str
        Name of the model.
    is_default_budget : bool
        True if neither `kv_budget` nor a budget of memory was given.
    memory : int or None
        Budget of the whole process, if there is one.
    """

    slot: SlotShape
    slots: int
    kv_budget: int
    policy: Policy | None
    interpreter_bytes: int
    weight_bytes: int
    activation_bytes: int
    model: str
    is_default_budget: bool = False
    memory: int | None = None

    @property
    def cap(self) -> int:
        """Pairs per head that survive an eviction, on average over the layers; `slot.caps` are those that differ."""
        return self.slot.cap

    @property
    def block(self) -> int:
        """Tokens between two evictions."""
        return self.slot.block

    @property
    def kv_bytes(self) -> int:
        """Bytes of all slots, allocated together before anything runs."""
        return self.slots * self.slot.nbytes

    @property
    def total_bytes(self) -> int:
        """Bytes of the process: interpreter and libraries, weights, slots and one pass."""
        return self.interpreter_bytes + self.weight_bytes + self.activation_bytes + self.kv_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {
            "model": self.model,
            "policy": self.policy.name if self.policy else None,
            "cap": self.cap,
            "caps": list(self.slot.caps) or [self.cap] * self.slot.cache_shape.num_layers,
            "block": self.block,
            "slots": self.slots,
            "slot_bytes": self.slot.nbytes,
            "kv_bytes": self.kv_bytes,
            "kv_budget": self.kv_budget,
            "kv_budget_is_default": self.is_default_budget,
            "interpreter_bytes": self.interpreter_bytes,
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "total_bytes": self.total_bytes,
            "memory": self.memory,
        }

    def __str__(self) -> str:
        shape = self.slot.cache_shape
        pairs, pair_bytes = self.slot.capacity, self.slot.pair_bytes
        sizes = f"{shape.num_layers} layers x {shape.num_kv_heads} heads x {pairs} pairs x {pair_bytes} B"
        rest = self.slot.nbytes - shape.num_layers * shape.num_kv_heads * pairs * pair_bytes
        if rest:
            sizes += f" + {format_bytes(rest)} of {'queries' if self.slot.num_heads else 'surprise'}"
        budget = f", of {format_bytes(self.kv_budget)}"
        if self.is_default_budget:
            budget += " by default; kv_budget or memory changes it"
        rule = f"evicted by {self.policy.name}" if self.policy else "nothing is evicted"
        rows = (
            ("process", format_bytes(self.interpreter_bytes), "interpreter and libraries, measured"),
            ("weights", format_bytes(self.weight_bytes), self.model),
            ("a slot", format_bytes(self.slot.nbytes), f"{sizes}; cap {self.cap} + block {self.block}, {rule}"),
            *(("", "", note) for note in self._by_layer()),
            (format_count(self.slots, "slot"), format_bytes(self.kv_bytes), f"allocated at once{budget}"),
            ("a pass", format_bytes(self.activation_bytes), f"activations of {pass_tokens(self.slots)} tokens, logits"),
            (
                "in all",
                format_bytes(self.total_bytes),
                "" if self.memory is None else f"of {format_bytes(self.memory)}",
            ),
        )
        return "\n".join(f"{name:<10}{size:>10}  {note}".rstrip() for name, size, note in rows)

    def _by_layer(self) -> list[str]:
        """Describe the division of a slot among layers with different caps."""
        if not self.slot.caps:
            return []
        *others, (large, induction) = self.slot.layer_groups
        less, names = (", ".join(map(str, values)) for values in ([cap for cap, _ in others], induction))
        return [f"cap {large} in the induction layers ({names}), {less} in the others"]


def pass_tokens(slots: int) -> int:
    """Most tokens of one pass over all slots."""
    return min(MAX_BATCHED_TOKENS, slots * PROMPT_CHUNK)


def pass_bytes(model: Model, slot: SlotShape, slots: int) -> int:
    """Bytes of the activations and logits of one pass over all slots."""
    return model.activation_bytes(pass_tokens(slots), slot.max_capacity, min(slots, MAX_BATCHED_TOKENS))
