"""``minseek batch``: a file of requests, in a fixed memory budget, to a file of results."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, cast

from minseek.cli.batch_plan import (
    add_model_flags,
    add_plan_flags,
    chosen_policy,
    parse_cap,
    planned,
    show_batch_plan,
)
from minseek.cli.view import loading
from minseek.errors import InputError
from minseek.units import format_bytes

if TYPE_CHECKING:
    from minseek.batch.request_jobs import FileSummary, RequestJob
    from minseek.batch.requests import Defaults, InvalidRequest, Request
    from minseek.batch.result_file import Results, ResumeState
    from minseek.cli.view_batch import BatchView
    from minseek.engine import BatchPlan, Engine
    from minseek.models import Model

_NAMED = 5  # ids that a message names before it only counts


class BatchCommand:
    """Parses the flags, plans, and works a file off, or goes on where an earlier run was stopped."""

    name = "batch"
    help = "answer a file of requests, as many at once as fit into a memory budget; a stopped run goes on by id"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The flags of ``minseek batch``."""
        parser.add_argument(
            "input",
            metavar="IN.jsonl",
            help='one request a line: {"id": …, "prompt": …}, or OpenAI\'s batch format; \'-\' is standard input',
        )
        parser.add_argument(
            "output",
            metavar="OUT.jsonl",
            help="one result a line, as they finish; ids that it holds are skipped; '-' is standard output",
        )
        add_model_flags(parser)
        add_plan_flags(parser)

        group = parser.add_argument_group("requests that do not say otherwise")
        group.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens to write at most (256)")
        group.add_argument("--temperature", type=float, metavar="T", default=0.0, help="0 is greedy (0)")
        group.add_argument("--top-p", type=float, metavar="P", default=1.0, help="(1)")
        group.add_argument("--top-k", type=int, metavar="K")
        group.add_argument("--min-p", type=float, metavar="P", default=0.0)
        group.add_argument("--seed", type=int, help="of every request: the same prompt then gets the same text")
        group.add_argument("--stop", action="append", metavar="TEXT", help="ends a text; may be given several times")

        group = parser.add_argument_group("output")
        group.add_argument("--plan", action="store_true", help="print the memory the run would take, and do not run")
        group.add_argument("--json", action="store_true", help="print the plan as one JSON object")
        group.add_argument("--overwrite", action="store_true", help="lose what OUT.jsonl holds, and begin anew")

    def run(self, args: argparse.Namespace) -> int:
        """Work the file off."""
        _check_flags(args)
        from minseek.batch.request_file import RequestFile
        from minseek.batch.request_jobs import scan_requests
        from minseek.batch.requests import read_requests
        from minseek.models import load

        policy, defaults = chosen_policy(args.policy), _defaults(args)
        with RequestFile(args.input) as file:
            earlier = _earlier(args)
            with loading(args.model):
                model = load(args.model, device=args.device, dtype=args.dtype)
            measured = scan_requests(model, read_requests(file.lines(), defaults), earlier, lengths=args.cap == "auto")
            if not measured.lines:
                print(f"minseek: {file.name} holds no request: write one JSON object a line into it", file=sys.stderr)
            plan = None
            if measured.requests:
                plan = planned(args, model, policy, requests=measured.requests, longest=measured.longest)
            if args.plan:
                if plan is None:
                    raise InputError(f"{file.name} has no request that can be run, so there is nothing to plan")
                show_batch_plan(plan, as_json=args.json)
                return 0
            if plan is not None and measured.to_run:
                _check_memory(plan, model)
                print(plan, file=sys.stderr)
            _tell_earlier(args.output, earlier)
            return _work_off(args, model, plan, read_requests(file.lines(), defaults), earlier, measured)


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    from minseek.batch.result_file import is_stream

    parse_cap(args.cap)
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be 1 or more, not {args.max_new_tokens}")
    if args.json and not args.plan:
        raise InputError("--json has no effect without --plan: leave it out")
    if "" in (args.stop or ()):
        raise InputError("--stop must not be an empty text: leave it out")
    if args.overwrite and is_stream(args.output):
        raise InputError(f"--overwrite has no effect on {args.output!r}, which is no file: leave it out")
    if args.output == "-":
        return
    path = Path(args.output)
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the name of a file for the results")
    if not path.exists() and not path.parent.is_dir():
        raise InputError(f"there is no directory {path.parent} for {path.name}: make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: Permission denied")
    if args.input != "-" and path.exists() and Path(args.input).exists() and path.samefile(args.input):
        raise InputError(f"{args.input} and {path} are the same file: give another one for the results")


def _defaults(args: argparse.Namespace) -> Defaults:
    from minseek.batch.requests import Defaults
    from minseek.decode import Sampling

    sampling = Sampling(
        temperature=args.temperature, top_p=args.top_p, top_k=args.top_k, min_p=args.min_p, seed=args.seed
    )
    return Defaults(sampling, args.max_new_tokens, tuple(args.stop or ()), args.model)


def _earlier(args: argparse.Namespace) -> ResumeState:
    """What an earlier run has left."""
    from minseek.batch.result_file import ResumeState, is_stream, read_resume_state

    path = Path(args.output)
    if args.overwrite or is_stream(args.output) or not path.exists():
        return ResumeState()
    return read_resume_state(path)


def _tell_earlier(output: str, earlier: ResumeState) -> None:
    if earlier.ids or earlier.lines:
        named = [repr(name) for name in list(earlier.ids)[:_NAMED]]
        named += [f"line {line}" for line in sorted(earlier.lines)[: _NAMED - len(named)]]
        count = len(earlier.ids) + len(earlier.lines)
        more = f" and {count - len(named)} more" if count > len(named) else ""
        failed = f" ({earlier.failed} of them failed)" if earlier.failed else ""
        print(f"minseek: {output} holds {count} results{failed}, skipped: {', '.join(named)}{more}", file=sys.stderr)
    if earlier.torn:
        print(f"minseek: the last line of {output} was cut off and is removed", file=sys.stderr)


def _check_memory(plan: BatchPlan, model: Model) -> None:
    from minseek.models.device import memory_bytes

    there = memory_bytes(model.placement.device)
    if plan.kv_bytes > there:
        raise InputError(
            f"the {plan.slots} slots take {format_bytes(plan.kv_bytes)} at once, and the device has "
            f"{format_bytes(there)} of memory for them: give a smaller --kv-budget or fewer --sequences"
        )


def _work_off(
    args: argparse.Namespace,
    model: Model,
    plan: BatchPlan | None,
    items: Iterable[Request | InvalidRequest],
    earlier: ResumeState,
    measured: FileSummary,
) -> int:
    """Run what has no result yet; 130 after Ctrl-C."""
    from minseek.batch.requests import InvalidRequest
    from minseek.batch.results import error_record, result_record
    from minseek.cli.view_batch import BatchView
    from minseek.engine.interrupts import finish_pass_first

    # The slots first: where they cannot be had, nothing is written.
    engine = _engine(model, plan) if plan is not None and measured.to_run else None
    with _results(args, earlier) as out:
        on_screen = args.output == "-" and sys.stdout.isatty()
        progress = engine.progress if engine is not None else None
        view = BatchView(measured.left, plan.slots if plan else 0, progress, quiet=on_screen)
        try:
            with view, finish_pass_first(engine) if engine is not None else nullcontext():
                left = (item for item in items if not earlier.has(item))
                make_jobs = _attempts(model, plan, left, out, view)
                finished = engine.run(make_jobs) if engine is not None else make_jobs
                for done in cast("Iterator[RequestJob]", finished):  # the engine gives back what it was given
                    outcome = done.outcome()
                    if isinstance(outcome, InvalidRequest):
                        out.write(error_record(outcome))
                    else:
                        out.write(result_record(done.request, outcome, model.name))
                    view.wrote(failed=isinstance(outcome, InvalidRequest))
        except KeyboardInterrupt:
            count = f"{view.written} of {measured.left} requests"
            print(f"minseek: interrupted after {count}{_hint(args)}", file=sys.stderr)
            return 130
    print(f"minseek: {view.summary()}", file=sys.stderr)
    return 0


def _attempts(
    model: Model, plan: BatchPlan | None, items: Iterable[Request | InvalidRequest], out: Results, view: BatchView
) -> Iterator[RequestJob]:
    """Requests made ready one by one, whenever a slot is free; those that are refused get their line on the way."""
    from minseek.batch.reasoning_jobs import make_thinking_job
    from minseek.batch.request_jobs import make_job
    from minseek.batch.requests import InvalidRequest
    from minseek.batch.results import error_record

    for item in items:
        made: RequestJob | InvalidRequest
        if isinstance(item, InvalidRequest):
            made = item
        else:
            assert plan is not None, "a file with a request has a plan"
            made = make_job(model, plan, item, make_thinking_job)
        if isinstance(made, InvalidRequest):
            out.write(error_record(made))
            view.wrote(failed=True)
        else:
            yield made


def _engine(model: Model, plan: BatchPlan) -> Engine:
    from minseek.engine import Engine

    try:
        return Engine(model, plan)
    except RuntimeError as error:  # torch has one kind of error for all that fails
        raise InputError(
            f"{plan.slots} slots of {format_bytes(plan.slot.nbytes)} could not be allocated: give a smaller "
            "--kv-budget or fewer --sequences"
        ) from error


def _results(args: argparse.Namespace, earlier: ResumeState) -> AbstractContextManager[Results]:
    from minseek.batch.result_file import ResultFile, ResultStream, is_stream

    if args.output == "-":
        return ResultStream(None)
    path = Path(args.output)
    return ResultStream(path) if is_stream(args.output) else ResultFile(path, earlier, overwrite=args.overwrite)


def _hint(args: argparse.Namespace) -> str:
    """How to go on."""
    from minseek.batch.result_file import is_stream

    if is_stream(args.output):
        return ""
    how = "the same command without --overwrite" if args.overwrite else "the same command"
    return f", which {args.output} keeps: {how} goes on from there"
