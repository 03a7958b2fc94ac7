"""The memory plan of a run, as a table or JSON."""

from __future__ import annotations

import json

from minseek.models import Model
from minseek.reasoning import RunPlan
from minseek.units import format_bytes


def show_plan(model: Model, plan: RunPlan, *, as_json: bool) -> None:
    """Print the memory of the weights and the cache, and the tokens left for thinking."""
    kind = str(model.placement.dtype).removeprefix("torch.")
    rows: list[tuple[str, str, int | None, str]] = [  # key, words, tokens, note
        ("token", "cache, each token", 1, ""),
        ("prompt", "prompt", plan.prompt_tokens, ""),
    ]
    bound = {
        "context": "the model's context",
        "kv-budget": "the KV budget" if plan.memory is None else "the memory budget",
    }[plan.bound_by]
    rows.append(
        ("cache", "cache at most", plan.capacity, bound if plan.capacity else "neither context nor budget bound it")
    )
    if plan.capacity is not None and plan.thinking_capacity is not None:
        rows.append(("thoughts", "  of it for thoughts at once", plan.thinking_capacity - plan.prompt_tokens, ""))
        rows.append(("answer", "  of it for closing and answer", plan.capacity - plan.thinking_capacity, ""))
    if plan.max_thought_tokens is not None:
        rows.append(("thought", "each thought at most", plan.max_thought_tokens, ""))
    if plan.max_tokens_held is not None:
        rows.append(
            (
                "worst",
                "this run at most",
                plan.max_tokens_held,
                "prompt, thoughts held at once, the current one, answer",
            )
        )
    if as_json:
        sizes = {key: {"tokens": n, "bytes": None if n is None else n * plan.token_bytes} for key, _, n, _ in rows}
        whole = dict.fromkeys(("interpreter_bytes", "weight_bytes", "activation_bytes", "kv_bytes", "total_bytes"))
        whole |= {} if plan.process is None else plan.process.as_dict()
        weights = {"weights": {"bytes": model.weight_bytes, "dtype": kind}}
        print(json.dumps(weights | sizes | whole | {"memory": plan.memory}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("memory", "tokens", "bytes", "", show_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for _, words, tokens, note in rows:
        size = "" if tokens is None else format_bytes(tokens * plan.token_bytes)
        table.add_row(words, "no limit" if tokens is None else f"{tokens:,}", size, note)
    table.add_section()
    process = plan.process
    if process is None:
        table.add_row("weights", "", format_bytes(model.weight_bytes), f"{model.name}, {kind}")
        table.add_row("in all", "no limit", "", "nothing bounds the cache")
    else:
        table.add_row("process", "", format_bytes(process.interpreter_bytes), "interpreter and libraries, measured")
        table.add_row("weights", "", format_bytes(process.weight_bytes), f"{model.name}, {kind}")
        table.add_row("a pass", "", format_bytes(process.activation_bytes), "activations and logits")
        allocated = "grows up to this" if plan.preallocated is None else "allocated at once"
        table.add_row("cache", "", format_bytes(process.kv_bytes), allocated)
        budget = "" if plan.memory is None else f"of {format_bytes(plan.memory)}"
        table.add_row("in all", "", format_bytes(process.total_bytes), budget)
    Console().print(table)
