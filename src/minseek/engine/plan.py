"""Memory plan of a batch: the number and size of the slots that fit into a budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from minseek.cache.policies import Policy, make_policy
from minseek.engine.batch_plan import BatchPlan, pass_bytes
from minseek.engine.memory_fit import fit_to_memory
from minseek.engine.slot_request import SlotRequest
from minseek.errors import InputError, check_int, check_type
from minseek.models import Model, check_model
from minseek.models.device import memory_bytes
from minseek.units import format_bytes

DEFAULT_POLICY = "novel-values"
_DEFAULT_CONTEXTS = 4  # whole contexts that the default budget holds
_MIN_DEFAULT_BUDGET = 256 * 10**6  # so that small models answer many sequences at once
_MAX_MEMORY_SHARE = 0.5  # upper bound of the default budget, as a share of the memory without the weights


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
    memory: int | str | None = None,
) -> BatchPlan:
    """Compute the number of slots that fit into a budget, before anything runs.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    kv_budget : int or str, optional
        Bytes that all slots together may take, such as "192MB". The default holds four sequences as long as the
        model's context, or 256 MB if that is more, but no more than half of the memory without the weights; or, inside
        a budget of memory, what that leaves.
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
    memory : int or str, optional
        Bytes that the whole process may take, such as "2GB": interpreter, weights, activations and slots. The default
        is the model's budget (`minseek.load`), which can only be lowered. Of this and `kv_budget`, the smaller holds.

    Returns
    -------
    BatchPlan

    Raises
    ------
    InputError
        If a budget does not hold one slot (the smallest memory that would is named), or a slot is longer than the
        model's context.
    TypeError
        If `model` was not loaded, or an argument is of a wrong type.
    """
    check_model(model)
    check_type("lengths must be a sequence of integers", lengths, Iterable)
    rule = make_policy(policy)
    check_int("block", block)
    if sequences is not None:
        check_int("sequences", sequences)
    for length in lengths:
        check_int("each of lengths", length)
    longest = max(lengths, default=None)
    if cap != "auto":
        if isinstance(cap, str):
            raise InputError(f"cap must be a number of pairs or 'auto', not {cap!r}")
        check_int("cap", cap)
    elif rule is None and longest is not None:
        block = min(block, max(1, longest - 1))  # nothing is evicted: a slot is as long as the longest sequence
    request = SlotRequest(
        model=model,
        policy=rule,
        cap=None if cap == "auto" else cap,
        block=block,
        longest=longest,
        count=sequences or len(lengths) or None,
        context=max(model.max_positions, (longest or 0) if beyond_context else 0),
    )
    return fit_to_memory(model, memory, kv_budget, request.least, partial(divide_budget, request))


def divide_budget(request: SlotRequest, kv_budget: int | None, interpreter_bytes: int) -> BatchPlan:
    """Divide a KV budget, or the default one, into the slots of a request.

    Raises
    ------
    InputError
        If it does not hold one slot, or a slot is longer than the model's context.
    """
    model, available = request.model, kv_budget
    if available is None:
        largest = request.shape(max(1, request.context - request.block))
        available = default_kv_budget(model, largest.nbytes)
    slot, slots = request.choose(available, shrink=kv_budget is not None)
    if slots < 1:
        size = format_bytes(max(available, 0))
        limit = (
            f"default KV budget of {size}, part of the memory without the weights,"
            if kv_budget is None
            else f"KV budget of {size}"
        )
        raise InputError(
            f"the {limit} does not hold one slot: cap {slot.cap} + block {slot.block} take "
            f"{format_bytes(slot.nbytes)}; give a larger budget or a smaller cap or block"
        )
    slot = request.by_layer(slot)
    return BatchPlan(
        slot=slot,
        slots=slots,
        kv_budget=available,
        policy=request.policy,
        interpreter_bytes=interpreter_bytes,
        weight_bytes=model.weight_bytes,
        activation_bytes=pass_bytes(model, slot, slots),
        model=model.name,
        is_default_budget=kv_budget is None,
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
