"""Plans inside a budget of the whole process: the cache gets what interpreter, weights and a pass leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from minseek.cache import SlotShape
from minseek.engine.batch_plan import BatchPlan, pass_bytes
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.memory_budget import ENGINE_BYTES, ProcessMemory, interpreter_bytes, memory_budget, refusal
from minseek.units import format_bytes, parse_bytes

_PRECISION = 2**14  # bytes to which the largest cache is found


def fit_to_memory(
    model: Model,
    memory: int | str | None,
    kv_budget: int | str | None,
    least: SlotShape,
    make: Callable[[int | None, int], BatchPlan],
    *,
    slots: int = 1,
) -> BatchPlan:
    """The plan with the largest cache that fits.

    Parameters
    ----------
    memory : int, str or None
        Bytes that the process may take; None is the model's budget, if it has one.
    kv_budget : int, str or None
        Bytes that all slots may take; of this and what the memory leaves, the smaller holds.
    least : SlotShape
        The smallest slot that will do.
    make : callable
        Makes the plan of a KV budget (None is the default one) and of the bytes of the process without the model.
    slots : int
        The fewest slots that will do.

    Raises
    ------
    InputError
        If the memory does not hold the smallest cache; the smallest memory that would do is named.
    """
    budget, given = memory_budget(model, memory), None if kv_budget is None else parse_bytes(kv_budget)
    process = interpreter_bytes(model, ENGINE_BYTES)
    if budget is None:
        return make(given, process)
    smallest = ProcessMemory(process, model.weight_bytes, pass_bytes(model, least, slots), slots * least.nbytes)
    needed = smallest.kv_bytes
    available = budget - smallest.total_bytes + needed
    if available < needed:
        raise InputError(refusal(budget, smallest))
    low, high = needed, min(available, given or available)
    plan = make(high, process)
    if plan.total_bytes > budget:  # more slots take a larger pass: the largest cache lies between
        while high - low > _PRECISION:
            middle = (low + high) // 2
            low, high = (middle, high) if make(middle, process).total_bytes <= budget else (low, middle)
        plan = make(low, process)
    return replace(plan, memory=budget)


def check_plan(model: Model, plan: BatchPlan, memory: int | str | None = None) -> None:
    """Refuse a plan, made without this budget, that takes more.

    Raises
    ------
    InputError
        With both sizes.
    """
    budget = memory_budget(model, memory)
    if budget is not None and plan.total_bytes > budget:
        raise InputError(
            f"the plan takes {format_bytes(plan.total_bytes)}, and the memory budget is {format_bytes(budget)}: make "
            "the plan with that memory"
        )
