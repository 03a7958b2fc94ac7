"""Memory plan of a server: slots that each hold a whole conversation."""

from __future__ import annotations

from functools import partial

from minseek.engine import BatchPlan
from minseek.engine.memory_fit import fit_to_memory
from minseek.engine.plan import divide_budget
from minseek.engine.slot_request import SlotRequest
from minseek.errors import InputError, check_int
from minseek.models import Model
from minseek.models.device import memory_bytes
from minseek.units import format_bytes

_MIN_SLOTS = 4  # by default, if the budget allows
_MAX_SLOTS = 64  # by default
_MIN_TOKENS = 64  # of a slot: fewer hold no conversation
_BLOCK = 128


def plan_slots(
    model: Model,
    *,
    kv_budget: int | str | None = None,
    slot_tokens: int | None = None,
    slots: int | None = None,
    memory: int | str | None = None,
) -> BatchPlan:
    """Divide a budget into slots without eviction.

    Parameters
    ----------
    model : Model
    kv_budget : int or str, optional
        Bytes of all slots together; the default is the need of `slots`, or `minseek.plan`'s default.
    slot_tokens : int, optional
        Tokens of a slot; the default is the model's context, or less so that four slots (or `slots`) fit.
    slots : int, optional
        Number of slots; the default is as many as fit, up to 64, or four without a budget.
    memory : int or str, optional
        Bytes that the whole process may take; the default is the model's budget.

    Returns
    -------
    BatchPlan

    Raises
    ------
    InputError
        If the budget does not hold one slot, or fewer than `slots`, or the device has less memory.
    """
    check_int("slots", slots, optional=True)
    check_int("slot_tokens", slot_tokens, least=min(_MIN_TOKENS, model.max_positions), optional=True)
    least = slot_tokens or min(_MIN_TOKENS, model.max_positions)
    make = partial(_divide, model, slot_tokens, slots)
    return fit_to_memory(model, memory, kv_budget, _request(model, least).least, make, slots=slots or 1)


def _request(model: Model, tokens: int, count: int | None = None) -> SlotRequest:
    """Slots of `tokens` tokens, from which nothing is evicted."""
    block = min(_BLOCK, max(1, tokens - 1))
    return SlotRequest(model, None, tokens - block, block, None, count, model.max_positions)


def _divide(
    model: Model, slot_tokens: int | None, slots: int | None, budget: int | None, interpreter_bytes: int
) -> BatchPlan:
    """Divide a KV budget into slots."""
    context, token_bytes = model.max_positions, model.token_bytes()
    tokens = slot_tokens
    if tokens is None:
        tokens = context if budget is None else min(context, budget // (slots or _MIN_SLOTS) // token_bytes)
        if budget is not None and tokens < _MIN_TOKENS <= budget // token_bytes and slots is None:
            tokens = _MIN_TOKENS
    if tokens > context:
        raise InputError(f"slot_tokens must be at most the model's context of {context} tokens, not {tokens}")
    if budget is not None and tokens < min(_MIN_TOKENS, context):
        raise InputError(
            f"a slot needs {_MIN_TOKENS} tokens of {format_bytes(token_bytes)} at least, and the KV budget of "
            f"{format_bytes(budget)} gives it {tokens}: give a larger budget, or fewer slots"
        )
    sequences = slots or (_MIN_SLOTS if budget is None else _MAX_SLOTS)
    available = memory_bytes(model.placement.device)
    if budget is None and slots is not None:
        budget = min(slots * tokens * token_bytes, available)
    made = divide_budget(_request(model, tokens, sequences), budget, interpreter_bytes)
    if slots is not None and made.slots < slots:
        raise InputError(
            f"{slots} slots of {tokens} tokens take {format_bytes(slots * made.slot.nbytes)}, and only {made.slots} "
            "fit: give a larger kv_budget, or fewer slots or slot_tokens"
        )
    if made.kv_bytes > available:
        raise InputError(
            f"the {made.slots} slots take {format_bytes(made.kv_bytes)} at once, and the device has "
            f"{format_bytes(available)} of memory for them: give a smaller --kv-budget"
        )
    return made
