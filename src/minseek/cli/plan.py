"""The memory of a run, before it."""

from __future__ import annotations

import json

from minseek.reasoning.run import Run
from minseek.units import format_bytes


def show_plan(run: Run, *, as_json: bool) -> None:
    """Print what the weights and the cache take and how far thinking can go."""
    room, kind = run.room, str(run.model.placement.dtype).removeprefix("torch.")
    rows: list[tuple[str, str, int | None, str]] = [  # key, words, tokens, note
        ("token", "cache, each token", 1, ""),
        ("prompt", "prompt", room.prompt_tokens, ""),
    ]
    bound = {"context": "the model's context", "kv-budget": "the KV budget, allocated at once"}[room.bound_by]
    rows.append(("cache", "cache at most", room.total, bound if room.total else "neither context nor budget bound it"))
    if room.total is not None and room.thinking is not None:
        rows.append(("thoughts", "  of it for thoughts at once", room.thinking - room.prompt_tokens, ""))
        rows.append(("answer", "  of it for closing and answer", room.total - room.thinking, ""))
    worst = run.worst_tokens()
    if worst is not None:
        rows.append(("worst", "this run at most", worst, "prompt, thoughts held at once, the current one, answer"))
    if as_json:
        plan = {key: {"tokens": n, "bytes": None if n is None else n * room.token_bytes} for key, _, n, _ in rows}
        print(json.dumps({"weights": {"bytes": run.model.weight_bytes, "dtype": kind}, **plan}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("memory", "tokens", "bytes", "", show_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    table.add_row("weights", "", format_bytes(run.model.weight_bytes), f"{run.model.name}, {kind}")
    for _, words, tokens, note in rows:
        size = "" if tokens is None else format_bytes(tokens * room.token_bytes)
        table.add_row(words, "no limit" if tokens is None else f"{tokens:,}", size, note)
    Console().print(table)
