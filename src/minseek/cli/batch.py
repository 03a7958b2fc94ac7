"""``minseek batch``: a file of requests, in a fixed memory budget, to a file of results."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from minseek.cli.batch_plan import (
    add_plan_flags,
    chosen_policy,
    parse_cap,
    plan_file,
    plan_text,
    show_batch_plan,
)
from minseek.cli.flags import add_model_flags, add_sampling_flags, choose_model, load_model, sampling_options
from minseek.cli.startup import import_torch
from minseek.errors import InputError
from minseek.signals import exit_code
from minseek.units import format_count

if TYPE_CHECKING:
    from minseek.batch.files import BatchFiles
    from minseek.batch.requests import RequestDefaults
    from minseek.batch.resume_state import ResumeState
    from minseek.batch.scan import FileSummary
    from minseek.engine import BatchPlan
    from minseek.models import Model

_MAX_NAMED = 5  # ids that a message names before it only counts


class BatchCommand:
    """Parses the flags, and runs or resumes a file of requests."""

    name = "batch"
    help = "answer a file of requests, as many at once as fit into a memory budget; a stopped run is resumed by id"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek batch``."""
        parser.add_argument(
            "input",
            metavar="IN.jsonl",
            help='one request a line: {"id": …, "prompt" or "question": …}, or OpenAI\'s batch format, also gzipped; '
            "'-' is standard input",
        )
        parser.add_argument(
            "output",
            metavar="OUT.jsonl",
            help="one result a line, as they finish; ids that it holds are skipped; OUT.jsonl.gz is compressed; '-' is "
            "standard output",
        )
        add_model_flags(parser)
        add_plan_flags(parser)

        group = parser.add_argument_group("defaults of requests")
        group.add_argument("--max-new-tokens", type=int, metavar="N", help="generate at most N tokens (default: 256)")
        add_sampling_flags(group)
        group.add_argument(
            "--seed",
            type=int,
            help="sample every request with this seed, so that equal prompts get equal texts (default: a new one)",
        )
        group.add_argument(
            "--stop", action="append", metavar="TEXT", help="end a text here; may be given several times"
        )

        group = parser.add_argument_group("output")
        group.add_argument("--plan", action="store_true", help="print the memory the run would take, and do not run")
        group.add_argument("--json", action="store_true", help="print the plan as one JSON object")
        group.add_argument("--overwrite", action="store_true", help="discard the results in OUT.jsonl, and start again")
        group.add_argument(
            "--retry-failed", action="store_true", help="try requests again whose result in OUT.jsonl is an error"
        )

    def run(self, args: argparse.Namespace) -> int:
        """Run the file: 0, or 3 if some requests failed and 2 if all did, or 130 after Ctrl-C and 143 after SIGTERM."""
        _check_flags(args)
        import_torch()
        from minseek.batch.api import check_memory

        choose_model(args)
        policy, defaults = chosen_policy(args.policy), _defaults(args)
        with _files(args) as files:
            model = load_model(args)
            summary = files.scan(model, defaults, lengths=args.cap == "auto")
            if not summary.lines:
                print(f"minseek: {files.name} holds no request: write one JSON object a line into it", file=sys.stderr)
            plan = plan_file(args, model, policy, summary) if summary.requests else None
            if args.plan:
                if plan is None:
                    raise InputError(f"{files.name} has no request that can be run, so there is nothing to plan")
                show_batch_plan(plan, as_json=args.json)
                return 0
            if plan is not None and summary.to_run:
                check_memory(plan, model)
                print(plan_text(plan), file=sys.stderr)
            _print_resume_state(args.output, files.resume)
            return _run(args, model, files, plan, defaults, summary)


def _run(
    args: argparse.Namespace,
    model: Model,
    files: BatchFiles,
    plan: BatchPlan | None,
    defaults: RequestDefaults,
    summary: FileSummary,
) -> int:
    """Run the requests without a result."""
    from minseek.batch.result_file import is_stream
    from minseek.batch.run import run_requests
    from minseek.cli.view_batch import BatchView

    view = BatchView(quiet=args.output == "-" and sys.stdout.isatty())
    try:
        with view:
            done = run_requests(model, files, plan, defaults, summary, view.update)
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        count = f"after {view.written} of {summary.left} requests{_hint(args)}"
        if isinstance(error, KeyboardInterrupt):
            print(f"minseek: interrupted {count}", file=sys.stderr)
            return exit_code(error)
        print(f"minseek: {error.filename or args.output} cannot be written: {error.strerror}, {count}", file=sys.stderr)
        return 1
    again = "; --retry-failed tries failed ones again" if done.any_failed and not is_stream(args.output) else ""
    print(f"minseek: {view.summary(done)}{again}", file=sys.stderr)
    return 2 if done.all_failed else 3 if done.any_failed else 0


def _files(args: argparse.Namespace) -> BatchFiles:
    """Check the two files."""
    from minseek.batch.files import BatchFiles

    return BatchFiles(args.input, args.output, overwrite=args.overwrite, retry_failed=args.retry_failed)


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse wrong flags before anything is loaded."""
    parse_cap(args.cap)
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be 1 or more, not {args.max_new_tokens}")
    if args.json and not args.plan:
        raise InputError("--json has no effect without --plan: leave it out")
    if "" in (args.stop or ()):
        raise InputError("--stop must not be an empty text: leave it out")


def _defaults(args: argparse.Namespace) -> RequestDefaults:
    from minseek.batch.requests import RequestDefaults
    from minseek.decode import Sampling

    return RequestDefaults(Sampling(**sampling_options(args)), args.max_new_tokens, tuple(args.stop or ()), args.model)


def _print_resume_state(output: str, state: ResumeState) -> None:
    if state.ids or state.lines:
        named = [repr(name) for name in list(state.ids)[:_MAX_NAMED]]
        named += [f"line {line}" for line in sorted(state.lines)[: _MAX_NAMED - len(named)]]
        count = len(state.ids) + len(state.lines)
        more = f" and {count - len(named)} more" if count > len(named) else ""
        failed = f" ({state.failed} of them failed)" if state.failed else ""
        print(
            f"minseek: {output} holds {format_count(count, 'result')}{failed}, skipped: {', '.join(named)}{more}",
            file=sys.stderr,
        )
    if state.retried:
        print(f"minseek: {format_count(state.retried, 'failed request')} of {output} are tried again", file=sys.stderr)
    if state.torn:
        print(f"minseek: the last line of {output} was cut off and is removed", file=sys.stderr)


def _hint(args: argparse.Namespace) -> str:
    """Tell how to resume."""
    from minseek.batch.result_file import is_stream

    if is_stream(args.output):
        return ""
    how = "the same command without --overwrite" if args.overwrite else "the same command"
    return f", which {args.output} keeps: {how} resumes from there"
