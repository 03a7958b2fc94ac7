"""``minseek tune``: train a model in place inside a memory budget, or resume a stopped run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from minseek.cli.flags import add_model_flag, choose_model, print_model_reason
from minseek.cli.startup import import_torch
from minseek.errors import InputError
from minseek.files import check_output_folder
from minseek.units import format_bytes, format_count, parse_bytes

if TYPE_CHECKING:
    from minseek.cli.view_tune import TuneView
    from minseek.tune import Settings, TuneResult

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_OLD_FLAGS: dict[str, tuple[str, type]] = {  # of earlier versions, still accepted
    "--length": ("max_length", int),
    "--batch": ("batch_size", int),
    "--accumulate": ("gradient_accumulation_steps", int),
    "--clip": ("max_grad_norm", float),
}


class TuneCommand:
    """Parses the flags, plans, and trains."""

    name = "tune"
    help = "train a model in place on a file of text, inside a memory budget; a stopped run resumes bit for bit"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The flags of ``minseek tune``."""
        parser.add_argument(
            "data",
            metavar="DATA",
            help='a .txt file, or a .jsonl file of {"text": …}, {"prompt": …, "completion": …} or {"messages": …}',
        )
        add_model_flag(parser)
        parser.add_argument(
            "-o", "--output", metavar="DIR", help="write the tuned model, its settings and its log here"
        )
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda … (default: %(default)s)")

        group = parser.add_argument_group("arithmetic")
        group.add_argument(
            "--format", metavar="NAME", help="weights, gradients and state: bf16 or float32 (default: bf16)"
        )
        group.add_argument(
            "--rounding", metavar="MODE", help="of bf16: stochastic or nearest-even (default: stochastic)"
        )
        group.add_argument("--optimizer", metavar="NAME", help="sgd, pisgd or adamw (default: sgd)")
        group.add_argument(
            "--lr", type=float, metavar="X", help="learning rate (default: sgd and pisgd 0.01, adamw 2e-5)"
        )
        group.add_argument("--momentum", type=float, metavar="X", help="momentum of sgd and pisgd (default: 0)")
        group.add_argument("--weight-decay", type=float, metavar="X", help="weight decay (default: 0; adamw 0.01)")
        group.add_argument("--max-grad-norm", type=float, metavar="NORM", help="scale gradients down to this norm")
        group.add_argument("--radius", type=float, metavar="X", help="radius of pisgd's perturbation (default: 0.5)")
        group.add_argument(
            "--samples", type=int, metavar="N", help="gradients of the same data in a step of pisgd (default: 1)"
        )

        group = parser.add_argument_group("training")
        group.add_argument("--max-length", type=int, metavar="N", help="tokens of a sequence (default: 512)")
        group.add_argument("--batch-size", type=int, metavar="N", help="sequences of a pass (default: 1)")
        group.add_argument("--gradient-accumulation-steps", type=int, metavar="N", help="passes of a step (default: 8)")
        group.add_argument(
            "--steps",
            type=int,
            metavar="N",
            help="steps of the whole run; more lengthen one in DIR (default: one epoch)",
        )
        group.add_argument("--epochs", type=float, metavar="X", help="passes through the data (default: 1)")
        group.add_argument(
            "--schedule", metavar="NAME", help="learning-rate schedule: constant, linear or cosine (default: constant)"
        )
        group.add_argument(
            "--warmup", type=int, metavar="N", help="steps in which the learning rate rises (default: 0)"
        )
        group.add_argument(
            "--layers", metavar="LIST", help="trained layers, such as 20-29,embedding,head,norm (default: all)"
        )
        group.add_argument(
            "--seed", type=int, metavar="N", help="seed of data order, rounding and perturbation (default: 0)"
        )

        group = parser.add_argument_group("evaluation")
        group.add_argument(
            "--eval-share", type=float, metavar="X", help="share of the data that is held out (default: 0.05)"
        )
        group.add_argument("--eval-data", metavar="FILE", help="separate file of held-out data")
        group.add_argument(
            "--eval-every", type=int, metavar="N", help="steps between evaluations (default: before and after)"
        )

        group = parser.add_argument_group("memory")
        group.add_argument(
            "--memory", metavar="SIZE", help="bytes that the whole process may take, such as 2GB (default: no limit)"
        )
        group.add_argument(
            "--memory-budget",
            metavar="SIZE",
            help="bytes that the run may add to the process; with --memory, the smaller holds",
        )
        group.add_argument(
            "--gradient-checkpointing",
            action="store_true",
            default=None,
            help="keep only the states between layers, and compute each layer twice",
        )
        group.add_argument("--plan", action="store_true", help="print the memory that the run would take, and stop")
        group.add_argument("--json", action="store_true", help="print the plan as one JSON object")

        group = parser.add_argument_group("output")
        group.add_argument(
            "--checkpoint-every",
            type=int,
            metavar="N",
            help="steps between checkpoints (default: one every ten minutes)",
        )
        group.add_argument("--overwrite", action="store_true", help="delete the run in DIR and start again")
        for flag, (name, kind) in _OLD_FLAGS.items():
            parser.add_argument(flag, dest=name, type=kind, help=argparse.SUPPRESS, default=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:
        """Plan, and train; 130 after Ctrl-C, 143 after SIGTERM."""
        _check_flags(args)
        import_torch()
        from minseek.cli.view import loading
        from minseek.cli.view_tune import TuneView
        from minseek.tune import TuneRun

        settings = _settings(args)
        choose_model(args)
        print_model_reason(args)
        with loading(args.model):
            tuning = TuneRun(args.model, args.data, settings, eval_data=args.eval_data, device=args.device)
        if args.output is not None:
            tuning.check_folder(args.output, overwrite=args.overwrite)
        tuning.check_budget(args.memory_budget, memory=args.memory)
        if args.plan:
            print(json.dumps(tuning.plan.as_dict(), indent=1) if args.json else tuning.plan)
            return 0
        print(tuning.plan, file=sys.stderr)
        print(f"minseek: {tuning.describe_data()}", file=sys.stderr)
        view = TuneView()
        with view, _stop_on_signals(view) as stop:
            result = tuning.run(
                args.output,
                memory_budget=args.memory_budget,
                memory=args.memory,
                checkpoint_every=args.checkpoint_every,
                overwrite=args.overwrite,
                on_entry=view.show,
                stop=stop.is_set,
            )
        if not result.finished:
            command = "the same command without --overwrite" if args.overwrite else "the same command"
            state = f"after step {result.steps} of {tuning.steps}, which {args.output} keeps"
            print(f"minseek: interrupted {state}: {command} resumes from there", file=sys.stderr)
            return 128 + (stop.signal or signal.SIGINT)
        print(f"minseek: {_summary(result, args.output, tuning.plan.total)}", file=sys.stderr)
        return 0


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse wrong flags before anything is loaded."""
    if args.output is None and not args.plan:
        raise InputError("-o DIR is missing: give a directory for the tuned model, or --plan to see the memory only")
    if args.output is not None:
        check_output_folder(Path(args.output))
    if args.json and not args.plan:
        raise InputError("--json has no effect without --plan: leave it out")
    if args.eval_data is not None and args.eval_share is not None:
        raise InputError("--eval-share has no effect with --eval-data: leave it out")
    if args.checkpoint_every is not None and args.checkpoint_every < 1:
        raise InputError(f"--checkpoint-every must be 1 or more, not {args.checkpoint_every}")
    for size in (args.memory, args.memory_budget):
        if size is not None:
            parse_bytes(size)
    for name in (args.data, args.eval_data):
        if name is not None and not Path(name).is_file():
            reason = "it is a directory" if Path(name).is_dir() else "there is no such file"
            raise InputError(f"{name} cannot be read: {reason}; give a .txt or .jsonl file")


def _settings(args: argparse.Namespace) -> Settings:
    """Make settings from the given flags."""
    from minseek.tune import Settings

    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    return Settings(**{name: value for name, value in given.items() if value is not None})


@dataclass
class _Stop:
    """Request to stop after the current step.

    Attributes
    ----------
    signal : int or None
        Signal that requested it.
    """

    signal: int | None = None

    def is_set(self) -> bool:
        """True once a stop was requested."""
        return self.signal is not None


@contextmanager
def _stop_on_signals(view: TuneView) -> Iterator[_Stop]:
    """Request a stop on the first Ctrl-C or SIGTERM, so that the current step is finished; raise on a second Ctrl-C."""
    stop = _Stop()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if stop.signal is None:
            stop.signal = number
            view.say("stopping after this step, with a checkpoint; Ctrl-C again stops at once, without")

    before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(result: TuneResult, output: str, planned: int) -> str:
    """Describe the whole run in a sentence."""
    facts = [f"{format_count(result.steps, 'step')}, {format_count(result.tokens, 'token')} in {result.seconds:.1f} s"]
    if result.held_out_before is not None:
        facts.append(f"held-out loss {result.held_out_before:.4f} before, {result.held_out_after:.4f} after")
    if result.memory is not None:
        facts.append(f"{format_bytes(result.memory)} of memory at its peak, {format_bytes(planned)} planned")
    return f"{'; '.join(facts)}; the model is in {output}"
