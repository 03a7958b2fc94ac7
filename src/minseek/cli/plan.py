"""The memory of a run, before it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from minseek.reasoning.run import Run
from minseek.units import format_bytes


def show_plan(run: Run) -> None:
    """Print what the weights and the cache take and how far thinking can go."""
    room, token_bytes = run.room, run.room.token_bytes

    def row(what: str, tokens: int | None, note: str = "") -> None:
        size = "" if tokens is None else format_bytes(tokens * token_bytes)
        table.add_row(what, "no limit" if tokens is None else f"{tokens:,}", size, note)

    table = Table("memory", "tokens", "bytes", "", show_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    kind = str(run.model.placement.dtype).removeprefix("torch.")
    table.add_row("weights", "", format_bytes(run.model.weight_bytes), f"{run.model.name}, {kind}")
    row("cache, each token", 1)
    row("prompt", room.prompt_tokens)
    bound = {"context": "the model's context", "kv-budget": "the KV budget, allocated at once"}[room.bound_by]
    row("cache at most", room.total, bound if room.total is not None else "neither context nor budget bound it")
    if room.total is not None and room.thinking is not None:
        row("  of it for thoughts at once", room.thinking - room.prompt_tokens)
        row("  of it for closing and answer", room.total - room.thinking)
    worst = run.worst_tokens()
    if worst is not None:
        row("this run at most", worst, "prompt, thoughts held at once, the current one, answer")
    Console().print(table)
