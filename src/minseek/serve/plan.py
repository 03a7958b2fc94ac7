"""How a server's memory is divided: slots that each hold a whole conversation."""

from __future__ import annotations

from minseek.engine import BatchPlan
from minseek.engine import plan as make_plan
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.device import memory_bytes
from minseek.units import format_bytes, parse_bytes

_SLOTS = 4  # that a server has at least, if the budget allows and nobody says how many
_MOST_SLOTS = 64  # that it has at most, if nobody says how many
_LEAST_TOKENS = 64  # of a slot: less holds no conversation
_BLOCK = 128


def plan_slots(
    model: Model, *, kv_budget: int | str | None = None, slot_tokens: int | None = None, slots: int | None = None
) -> BatchPlan:
    """Divide a budget into slots from which nothing is evicted.

    Parameters
    ----------
    model : Model
    kv_budget : int or str, optional
        Bytes of all slots together; without it, what the slots need.
    slot_tokens : int, optional
        Tokens of a slot; without it, the model's context, or less so that four slots (or `slots`) fit into the budget.
    slots : int, optional
        How many; without it, as many as fit, up to 64, or four where there is no budget.

    Raises
    ------
    InputError
        If the budget does not hold one slot, or not as many as wanted, or the device has less memory.
    """
    context, token_bytes = model.max_positions, model.token_bytes()
    budget = None if kv_budget is None else parse_bytes(kv_budget)
    for name, value in (("--slot-tokens", slot_tokens), ("--slots", slots)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be 1 or more, not {value}")
    tokens = slot_tokens
    if tokens is None:
        tokens = context if budget is None else min(context, budget // (slots or _SLOTS) // token_bytes)
        if budget is not None and tokens < _LEAST_TOKENS <= budget // token_bytes and slots is None:
            tokens = _LEAST_TOKENS
    if tokens > context:
        raise InputError(f"a slot of {tokens} tokens is longer than the model's context of {context}: give fewer")
    if tokens < min(_LEAST_TOKENS, context):
        given = f"the KV budget of {format_bytes(budget)}" if budget is not None and slot_tokens is None else "that"
        raise InputError(
            f"a slot needs {_LEAST_TOKENS} tokens of {token_bytes:,} bytes at least, and {given} gives it {tokens}: "
            "give a larger budget, fewer slots, or longer ones"
        )
    block = min(_BLOCK, tokens - 1)
    wanted = slots or (_SLOTS if budget is None else _MOST_SLOTS)
    made = make_plan(model, kv_budget=budget, cap=tokens - block, block=block, policy=None, sequences=wanted)
    if slots is not None and made.slots < slots:
        raise InputError(
            f"{slots} slots of {tokens} tokens take {format_bytes(slots * made.slot.nbytes)}, and only {made.slots} "
            "fit: give a larger --kv-budget, or fewer --slots or --slot-tokens"
        )
    there = memory_bytes(model.placement.device)
    if made.kv_bytes > there:
        raise InputError(
            f"the {made.slots} slots take {format_bytes(made.kv_bytes)} at once, and the device has "
            f"{format_bytes(there)} of memory for them: give a smaller --kv-budget"
        )
    return made
