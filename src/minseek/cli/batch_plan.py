"""``minseek plan``: memory of a batch before it runs; and the flags shared with ``minseek batch``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from minseek.cli.flags import add_memory_flags, add_model_flags, choose_model, load_model
from minseek.cli.startup import import_torch
from minseek.errors import InputError

if TYPE_CHECKING:
    from minseek.batch.scan import FileSummary
    from minseek.cache.policies.base import Policy
    from minseek.engine import BatchPlan
    from minseek.models import Model


class PlanCommand:
    """Prints the number of sequences that fit into a budget of bytes, without running any."""

    name = "plan"
    help = "print how many sequences fit into a memory budget at once, to the byte, without running them"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek plan``."""
        add_model_flags(parser)
        add_plan_flags(parser)
        parser.add_argument(
            "--lengths",
            metavar="N|FILE",
            help="tokens of the longest sequence, prompt and output together, or a file as 'minseek batch' reads it",
        )
        parser.add_argument(
            "--max-new-tokens",
            type=int,
            metavar="N",
            help="maximum number of tokens that requests of the file generate (default: 256)",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")

    def run(self, args: argparse.Namespace) -> int:
        """Print the plan."""
        import_torch()

        lengths = args.lengths
        if args.max_new_tokens is not None and (lengths is None or lengths.isdecimal()):
            raise InputError("--max-new-tokens has no effect without --lengths FILE: leave it out")
        policy = chosen_policy(args.policy)
        parse_cap(args.cap)
        choose_model(args)
        if lengths is None or lengths.isdecimal():
            model = load_model(args)
            longest = None if lengths is None else _positive(int(lengths))
            show_batch_plan(_filled(args, model, policy, longest), as_json=args.json)
            return 0
        from minseek.batch.request_file import RequestFile
        from minseek.batch.requests import RequestDefaults, read_requests
        from minseek.batch.resume_state import ResumeState
        from minseek.batch.scan import scan_requests
        from minseek.decode import Sampling

        with RequestFile(lengths) as file:
            model = load_model(args)
            if args.max_new_tokens is not None and args.max_new_tokens < 1:
                raise InputError(f"--max-new-tokens must be 1 or more, not {args.max_new_tokens}")
            defaults = RequestDefaults(Sampling(), args.max_new_tokens, (), args.model)
            summary = scan_requests(
                model, read_requests(file.lines(), defaults), ResumeState(), lengths=args.cap == "auto"
            )
            if not summary.requests:
                raise InputError(f"{file.name} has no request that can be run, so there is nothing to plan")
        plan = plan_file(args, model, policy, summary)
        show_batch_plan(plan, as_json=args.json)
        return 0


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a memory plan."""
    group = parser.add_argument_group("memory")
    add_memory_flags(group, "bytes that all sequences' caches may take, such as 192MB (default: four contexts)")
    group.add_argument(
        "--cap",
        default="auto",
        metavar="N",
        help="pairs per head that survive an eviction, or auto (default: %(default)s)",
    )
    group.add_argument(
        "--block", type=int, default=128, metavar="N", help="tokens between evictions (default: %(default)s)"
    )
    group.add_argument(
        "--policy",
        metavar="NAME",
        # The default is in minseek.engine.plan, which would import torch only to print it.
        help="which pairs survive an eviction, as 'minseek models' lists them, or none (default: novel-values)",
    )
    group.add_argument(
        "--sequences", type=int, metavar="N", help="sequences in flight (default: as many as there are, or as fit)"
    )


def chosen_policy(name: str | None) -> Policy | None:
    """Return the policy that ``--policy`` names."""
    from minseek.cache.policies import make_policy
    from minseek.engine.plan import DEFAULT_POLICY

    return make_policy(None if name == "none" else DEFAULT_POLICY if name is None else name)


def parse_cap(cap: str) -> int | None:
    """Parse ``--cap``; None means auto."""
    if cap == "auto":
        return None
    try:
        return int(cap)
    except ValueError:
        raise InputError(f"--cap takes a number or 'auto', not {cap!r}") from None


def plan_file(args: argparse.Namespace, model: Model, policy: Policy | None, summary: FileSummary) -> BatchPlan:
    """Plan the memory of a request file."""
    from minseek.batch.api import plan_requests

    cap = parse_cap(args.cap)
    return plan_requests(
        model,
        summary,
        kv_budget=args.kv_budget,
        cap="auto" if cap is None else cap,
        block=args.block,
        policy=policy,
        sequences=args.sequences,
    )


def show_batch_plan(plan: BatchPlan, *, as_json: bool) -> None:
    """Print a plan on standard output."""
    print(json.dumps(plan.as_dict(), indent=1) if as_json else plan_text(plan))


def plan_text(plan: BatchPlan) -> str:
    """Format a plan as a table that names the flags."""
    return str(plan).replace("; kv_budget or memory changes it", "; --kv-budget or --memory changes it")


def _filled(args: argparse.Namespace, model: Model, policy: Policy | None, longest: int | None) -> BatchPlan:
    """Plan as many sequences of one length as fit, or as ``--sequences`` says."""
    cap = parse_cap(args.cap)
    if longest is not None and cap is None and args.sequences is None:
        cap = _plan(args, model, policy, None, longest, 1).cap
    return _plan(args, model, policy, cap, longest if cap is None else None, args.sequences)


def _plan(
    args: argparse.Namespace,
    model: Model,
    policy: Policy | None,
    cap: int | None,
    longest: int | None,
    sequences: int | None,
) -> BatchPlan:
    from minseek.engine import plan

    return plan(
        model,
        kv_budget=args.kv_budget,
        cap="auto" if cap is None else cap,
        block=args.block,
        policy=policy,
        lengths=() if longest is None else (longest,),
        sequences=sequences,
    )


def _positive(length: int) -> int:
    if length < 1:
        raise InputError(f"--lengths must be 1 or more, not {length}")
    return length
