"""Memory plan of a batch: the number and size of the slots that fit into a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from minseek.cache import SlotShape, caps_by_layer
from minseek.cache.policies import Policy, make_policy
from minseek.errors import InputError, check_int, check_type
from minseek.models import Model, check_model
from minseek.models.device import memory_bytes
from minseek.units import format_bytes, format_count, parse_bytes

DEFAULT_POLICY = "novel-values"
MIN_AUTO_CAP = 256  # lower bound of cap="auto" while one slot of it fits: the number of slots shrinks first
MAX_BATCHED_TOKENS = 512  # tokens in one pass, of all sequences together
_DEFAULT_CONTEXTS = 4  # whole contexts that the default budget holds
_MIN_DEFAULT_BUDGET = 256 * 10**6  # so that small models answer many sequences at once
_MAX_MEMORY_SHARE = 0.5  # upper bound of the default budget, as a share of the memory without the weights


@dataclass(frozen=True)
class BatchPlan:
    """Memory of a batch, to the byte.

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
    weight_bytes, activation_bytes : int
        Bytes of the model, and of the activations and logits of one pass.
    model : str
        Name of the model.
    is_default_budget : bool
        True if `kv_budget` was not given.
    """

    slot: SlotShape
    slots: int
    kv_budget: int
    policy: Policy | None
    weight_bytes: int
    activation_bytes: int
    model: str
    is_default_budget: bool = False

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
        """Bytes of weights, slots and one pass."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes

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
            "weight_bytes": self.weight_bytes,
            "activation_bytes": self.activation_bytes,
            "total_bytes": self.total_bytes,
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
            budget += " by default; kv_budget changes it"
        rule = f"evicted by {self.policy.name}" if self.policy else "nothing is evicted"
        rows = (
            ("weights", format_bytes(self.weight_bytes), self.model),
            ("a slot", format_bytes(self.slot.nbytes), f"{sizes}; cap {self.cap} + block {self.block}, {rule}"),
            *(("", "", note) for note in self._by_layer()),
            (format_count(self.slots, "slot"), format_bytes(self.kv_bytes), f"allocated at once{budget}"),
            ("a pass", format_bytes(self.activation_bytes), f"activations of {MAX_BATCHED_TOKENS} tokens, logits"),
            ("in all", format_bytes(self.total_bytes), ""),
        )
        return "\n".join(f"{name:<10}{size:>10}  {note}".rstrip() for name, size, note in rows)

    def _by_layer(self) -> list[str]:
        """Describe the division of a slot among layers with different caps."""
        if not self.slot.caps:
            return []
        *others, (large, induction) = self.slot.layer_groups
        less, names = (", ".join(map(str, values)) for values in ([cap for cap, _ in others], induction))
        return [f"cap {large} in the induction layers ({names}), {less} in the others"]


def plan(
    model: Model,
    *,
    kv_budget: int | str | None = None,
    cap: int | Literal["auto"] = "auto",
    block: int = 128,
    policy: str | Policy | None = DEFAULT_POLICY,
    lengths: Sequence[int] = (),
    sequences: int | None = None,
    beyond_context: bool = False,
) -> BatchPlan:
    """Compute the number of slots that fit into a budget, before anything runs.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    kv_budget : int or str, optional
        Bytes that all slots together may take, such as "192MB". The default holds four sequences as long as the
        model's context, or 256 MB if that is more, but no more than half of the memory without the weights.
    cap : int or "auto"
        Pairs per head that survive an eviction. *auto* is the largest cap at which `sequences` slots fit, at most the
        need of the longest of `lengths`, and at least 256 (then fewer slots fit). With the default budget, fewer slots
        fit instead of smaller ones, down to one.
    block : int
        Tokens between two evictions.
    policy : str, Policy or None
        Eviction policy; None never evicts, and a slot is full at ``cap + block`` tokens.
    lengths : sequence of int
        Tokens of each sequence, prompt and output together.
    sequences : int, optional
        Desired number of sequences in flight; the default is the number of `lengths`, or as many as fit.
    beyond_context : bool
        Allow slots longer than the model's context, if `lengths` are.

    Returns
    -------
    BatchPlan

    Raises
    ------
    InputError
        If the budget does not hold one slot, or a slot is longer than the model's context.
    TypeError
        If `model` was not loaded, or an argument is of a wrong type.
    """
    check_model(model)
    check_type("lengths must be a sequence of integers", lengths, Iterable)
    rule = make_policy(policy)
    budget = None if kv_budget is None else parse_bytes(kv_budget)
    check_int("block", block)
    if sequences is not None:
        check_int("sequences", sequences)
    for length in lengths:
        check_int("each of lengths", length)
    longest = max(lengths, default=None)
    context = max(model.max_positions, (longest or 0) if beyond_context else 0)
    requested = sequences or len(lengths) or None
    queries = model.num_heads if rule is not None and rule.needs_queries else 0
    hidden = model.hidden_size if rule is not None and rule.needs_surprise else 0

    def shape(size: int) -> SlotShape:
        return SlotShape(model.cache_shape, size, block, rule is not None, queries, hidden)

    available = budget
    if available is None:
        largest = shape(max(1, context - block))
        available = default_kv_budget(model, largest.nbytes)
    min_cap = _min_cap(rule)
    if cap == "auto":
        if rule is None and longest is not None:
            block = min(block, max(1, longest - 1))  # nothing is evicted: a slot is as long as the longest sequence
        cap = _fitting_cap(shape, available, requested if budget else 1, longest, rule, block, context)
    else:
        if isinstance(cap, str):
            raise InputError(f"cap must be a number of pairs or 'auto', not {cap!r}")
        check_int("cap", cap)
        if cap < min_cap:
            raise InputError(f"cap {cap} is below the {min_cap} pairs that the policy always protects: give more")
    slot = shape(cap)
    if slot.capacity > context:
        raise InputError(
            f"a slot of cap {cap} + block {block} is longer than the model's context of {model.max_positions} tokens: "
            "give a smaller cap"
        )
    fitting = available // slot.nbytes
    if fitting < 1:
        size = format_bytes(max(available, 0))
        limit = (
            f"default KV budget of {size}, part of the memory without the weights,"
            if budget is None
            else f"KV budget of {size}"
        )
        raise InputError(
            f"the {limit} does not hold one slot: cap {cap} + block {block} take "
            f"{format_bytes(slot.nbytes)}; give a larger budget or a smaller cap or block"
        )
    slots = min(fitting, requested) if requested else fitting
    if rule is not None and rule.induction_cap_factor > 1:
        slot = replace(slot, caps=_caps(model, rule, cap, block, longest))
    return BatchPlan(
        slot=slot,
        slots=slots,
        kv_budget=available,
        policy=rule,
        weight_bytes=model.weight_bytes,
        activation_bytes=model.activation_bytes(MAX_BATCHED_TOKENS, slot.max_capacity, min(slots, MAX_BATCHED_TOKENS)),
        model=model.name,
        is_default_budget=budget is None,
    )


def default_kv_budget(model: Model, context_bytes: int) -> int:
    """Bytes of all slots if no budget is given.

    Parameters
    ----------
    model : Model
    context_bytes : int
        Bytes of a slot as long as the model's context.
    """
    free = memory_bytes(model.placement.device)
    if model.placement.device.type != "cuda":  # on a GPU the weights are allocated already
        free -= model.weight_bytes
    wanted = max(_DEFAULT_CONTEXTS * context_bytes, _MIN_DEFAULT_BUDGET)
    return max(0, min(wanted, int(_MAX_MEMORY_SHARE * free)))


def _caps(model: Model, policy: Policy, cap: int, block: int, longest: int | None) -> tuple[int, ...]:
    """Caps by layer: more pairs for induction layers, at the same number of bytes."""
    max_cap = min(model.max_positions, longest or model.max_positions) - block  # larger caps would never fill
    if max_cap < cap + block:
        return ()
    return caps_by_layer(
        *(cap, model.num_layers, model.induction_layers),
        factor=policy.induction_cap_factor,
        block=block,
        min_cap=max(_min_cap(policy), cap // 2),
        max_cap=max_cap,
    )


def _min_cap(policy: Policy | None) -> int:
    return 1 if policy is None else policy.sinks + policy.recent + 1


def _fitting_cap(
    shape: Callable[[int], SlotShape],
    available: int,
    requested: int | None,
    longest: int | None,
    policy: Policy | None,
    block: int,
    context: int,
) -> int:
    """Largest useful cap at which the desired number of slots fits; without a policy, the need of the longest."""
    min_cap = _min_cap(policy)
    useful = context - block if longest is None else min(max(longest - block, min_cap), context - block)
    if useful < min_cap:
        raise InputError(f"block {block} leaves no cap within the model's context of {context} tokens: give less")
    floor = useful if policy is None else min(useful, max(min_cap, MIN_AUTO_CAP))

    def fits(size: int, count: int) -> bool:
        return bool(count * shape(size).nbytes <= available)

    count = requested or 1
    if not fits(floor, count):
        count = max(1, available // shape(floor).nbytes)
    low, high = (floor, useful) if fits(floor, count) else (min_cap, floor)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle, count) else (low, middle - 1)
    return low
