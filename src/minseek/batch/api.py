"""`run_file`: a file of requests to a file of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from minseek.batch.files import BatchFiles
from minseek.batch.requests import RequestDefaults
from minseek.batch.run import BatchSummary, OnProgress, run_requests
from minseek.batch.scan import FileSummary
from minseek.cache.policies import Policy, make_policy
from minseek.decode import Sampling, check_stop
from minseek.engine import BatchPlan
from minseek.engine import plan as make_plan
from minseek.engine.memory_fit import check_plan
from minseek.engine.plan import DEFAULT_POLICY
from minseek.errors import InputError, check_int, check_type
from minseek.models import Model, check_model, device
from minseek.units import format_bytes


def run_file(
    model: Model,
    requests: str | Path,
    results: str | Path,
    *,
    plan: BatchPlan | None = None,
    kv_budget: int | str | None = None,
    cap: int | Literal["auto"] = "auto",
    block: int = 128,
    policy: str | Policy | None = DEFAULT_POLICY,
    sequences: int | None = None,
    max_new_tokens: int | None = None,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    overwrite: bool = False,
    retry_failed: bool = False,
    on_progress: OnProgress | None = None,
    memory: int | str | None = None,
) -> BatchSummary:
    """Run a file of requests, as ``minseek batch`` does.

    Each line of `requests` is a JSON object: ``{"id": …, "prompt": …}`` (a text to continue), ``{"id": …, "question":
    …}``, ``{"id": …, "messages": […]}``, or OpenAI's batch format. A line is written to `results` as soon as its
    request has finished, also for requests that are refused. A run that was stopped is resumed by calling it again: ids
    that `results` holds are skipped. Requests that are compressed with gzip are read as such, and results whose name
    ends with ``.gz`` are compressed.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    requests, results : str or Path
        Paths of the two files; "-" is standard input and output.
    plan : BatchPlan, optional
        From `minseek.plan`. The default is made for the file from `kv_budget`, `cap`, `block`, `policy` and
        `sequences`.
    kv_budget, cap, block, policy, sequences
        As for `minseek.plan`, without a plan.
    max_new_tokens : int, optional
        Maximum number of tokens of requests that give none: 256, and for thinking 32,768 (or what a slot holds).
    sampling : Sampling, optional
        Sampling of requests that give none; the default is `Sampling()`.
    stop : sequence of str
        Texts that end an answer, for requests that give none.
    overwrite : bool
        Discard the results in `results` instead of resuming.
    retry_failed : bool
        Try requests again whose result is an error, which is removed from `results`.
    on_progress : callable, optional
        Called with a `BatchProgress` at the beginning and after every line.
    memory : int or str, optional
        Bytes that the whole process may take, as for `minseek.plan`; a given plan that takes more is refused.

    Returns
    -------
    BatchSummary

    Raises
    ------
    InputError
        Before anything runs, if a file cannot be read or written, or the plan does not fit.
    TypeError
        If `model` was not loaded, or an argument is of a wrong type.
    KeyboardInterrupt
        After Ctrl-C; requests that the current pass finishes are still written.

    Examples
    --------
    >>> import json, minseek
    >>> from minseek.batch import run_file
    >>> model = minseek.load("smollm2")  # doctest: +SKIP
    >>> with open("in.jsonl", "w") as file:  # doctest: +SKIP
    ...     for name, prompt in (("a", "The capital of France is"), ("b", "Water boils at")):
    ...         print(json.dumps({"id": name, "prompt": prompt, "max_new_tokens": 8}), file=file)
    >>> run_file(model, "in.jsonl", "out.jsonl", kv_budget="64MB").done  # doctest: +SKIP
    2
    """
    check_model(model)
    if plan is not None:
        check_type("plan must be what minseek.plan returns", plan, BatchPlan, ": call minseek.plan first")
    if max_new_tokens is not None:
        check_int("max_new_tokens", max_new_tokens)
    defaults = RequestDefaults(sampling or Sampling(), max_new_tokens, check_stop(stop), model.name)
    with BatchFiles(requests, results, overwrite=overwrite, retry_failed=retry_failed) as files:
        summary = files.scan(model, defaults, lengths=plan is None and cap == "auto")
        if plan is None and summary.requests:
            plan = plan_requests(
                model,
                summary,
                kv_budget=kv_budget,
                cap=cap,
                block=block,
                policy=make_policy(policy),
                sequences=sequences,
                memory=memory,
            )
        if plan is not None and summary.to_run:
            check_plan(model, plan, memory)
            check_memory(plan, model)
        return run_requests(model, files, plan, defaults, summary, on_progress)


def plan_requests(
    model: Model,
    summary: FileSummary,
    *,
    kv_budget: int | str | None,
    cap: int | Literal["auto"],
    block: int,
    policy: Policy | None,
    sequences: int | None,
    memory: int | str | None = None,
) -> BatchPlan:
    """Plan the memory of a request file."""
    if sequences is not None and sequences < 1:
        raise InputError(f"sequences must be 1 or more, not {sequences}")
    return make_plan(
        model,
        kv_budget=kv_budget,
        cap=cap,
        block=block,
        policy=policy,
        lengths=() if summary.longest is None else (summary.longest,),
        sequences=min(summary.sequences, sequences or summary.sequences),
        memory=memory,
    )


def check_memory(plan: BatchPlan, model: Model) -> None:
    """Refuse a plan whose slots the device has no memory for."""
    available = device.memory_bytes(model.placement.device)
    if plan.kv_bytes > available:
        raise InputError(
            f"the {plan.slots} slots take {format_bytes(plan.kv_bytes)} at once, and the device has "
            f"{format_bytes(available)} of memory for them: give a smaller KV budget or fewer sequences"
        )
