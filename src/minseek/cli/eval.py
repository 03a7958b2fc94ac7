"""``minseek bench``: accuracy against the number of thoughts, on tasks with known answers."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseek.cli.batch_plan import add_model_flags
from minseek.cli.view import loading
from minseek.errors import InputError

if TYPE_CHECKING:
    from minseek.engine import BatchPlan
    from minseek.evaluation.grid import Trial, Variant
    from minseek.evaluation.points import Record
    from minseek.evaluation.settings import Settings
    from minseek.evaluation.tasks import Task
    from minseek.models import Model

_STRATEGIES = ("standard", "budget-forcing", "min-seek")
_THOUGHTS = "0,2,4,6,10,20,50,100"
_SEQUENCES = 32
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_LIMITS = (
    *("max_tokens", "thinking_budget", "answer_tokens"),
    *("min_thought_tokens", "max_thought_tokens", "beyond_context"),
)


class BenchCommand:
    """Parses the flags, plans, runs what has no result yet, and draws what there is."""

    name = "bench"
    help = "measure accuracy, tokens, bytes and seconds against the number of thoughts; a stopped run goes on"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The flags of ``minseek bench``."""
        parser.add_argument(
            "tasks",
            metavar="TASKS.jsonl|NAME",
            help='{"id": …, "prompt": …, "answer": …} a line, or aime-2024, amc, gpqa-diamond, math-500, mmlu-pro',
        )
        add_model_flags(parser)
        parser.add_argument("-o", "--output", metavar="DIR", help="for results.jsonl, summary.json and the picture")
        parser.add_argument("--limit", type=int, metavar="N", help="take the first N tasks only")

        group = parser.add_argument_group("what is compared")
        group.add_argument(
            "--strategy",
            action="append",
            metavar="NAME[:OPTION=VALUE,…]",
            help=f"such as min-seek:rule=random,keep=2; may be given several times ({', '.join(_STRATEGIES)})",
        )
        group.add_argument("--thoughts", default=_THOUGHTS, metavar="LIST", help="induced thoughts (%(default)s)")
        group.add_argument("--seeds", default="0", metavar="LIST", help="each task is tried with each (%(default)s)")

        group = parser.add_argument_group("sampling")
        group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (0.6)")
        group.add_argument("--top-p", type=float, metavar="P", help="(0.95)")
        group.add_argument("--top-k", type=int, metavar="K")
        group.add_argument("--min-p", type=float, metavar="P")
        group.add_argument("--system", metavar="TEXT", help="a system message")
        group.add_argument("--format", metavar="NAME", help="how the model writes its thinking; see 'minseek models'")

        group = parser.add_argument_group("limits of each trial")
        group.add_argument("--max-tokens", type=int, metavar="N", help="where 'unbounded' thinking ends (32768)")
        group.add_argument("--thinking-budget", type=int, metavar="N", help="end thinking after N tokens, and answer")
        group.add_argument("--answer-tokens", type=int, metavar="N", help="end an answer after N tokens (1024)")
        group.add_argument("--min-thought-tokens", type=int, metavar="N", help="let no thought close before N tokens")
        group.add_argument("--max-thought-tokens", type=int, metavar="N", help="end every thought after N tokens")
        group.add_argument("--cache-tokens", type=int, metavar="N", help="tokens of cache (the model's context)")
        group.add_argument(
            "--beyond-context", action="store_true", help="let caches grow beyond the context, up to --cache-tokens"
        )

        group = parser.add_argument_group("memory")
        group.add_argument("--kv-budget", metavar="SIZE", help="bytes that all trials' caches may take, such as 192MB")
        group.add_argument(
            "--sequences", type=int, default=_SEQUENCES, metavar="N", help="trials in flight (%(default)s)"
        )
        group.add_argument("--plan", action="store_true", help="print trials and memory, and do not run")

        group = parser.add_argument_group("output")
        group.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        group.add_argument("--overwrite", action="store_true", help="lose the results that DIR holds, and begin anew")

    def run(self, args: argparse.Namespace) -> int:
        """Run the sweep; 130 after Ctrl-C."""
        _check_flags(args)
        from minseek.evaluation.grid import parse_seeds, parse_variants, trials
        from minseek.evaluation.settings import slots_for
        from minseek.models import load

        variants, seeds = parse_variants(args.strategy or _STRATEGIES), parse_seeds(args.seeds)
        settings, tasks = _settings(args), _tasks(args)
        with loading(args.model):
            model = load(args.model, device=args.device, dtype=args.dtype, thinking=args.format)
        wanted = list(trials(variants, settings.grid, seeds, tasks))
        sequences = min(args.sequences, len(wanted))
        plan = slots_for(model, settings, kv_budget=args.kv_budget, sequences=sequences)
        _check_longest(model, plan, settings, variants, wanted)
        if args.plan:
            told = plan.as_dict() | {"tasks": len(tasks), "trials": len(wanted), "settings": settings.as_dict(model)}
            print(json.dumps(told, indent=1) if args.json else f"{_counted(wanted, tasks, seeds)}\n{plan}")
            return 0
        return _run(args, model, plan, settings, wanted, _counted(wanted, tasks, seeds))


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    from minseek.evaluation.verifier import installed

    if args.output is None and not args.plan:
        raise InputError("-o DIR is missing: give a directory for the results, or --plan to see trials and memory only")
    for name in ("limit", "sequences", "cache_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    if args.output is not None and Path(args.output).exists() and not Path(args.output).is_dir():
        raise InputError(f"{args.output} is not a directory: give one for the results")
    if not args.plan and not installed():
        raise InputError("answers are checked with math-verify, which is not installed: pip install math-verify")


def _settings(args: argparse.Namespace) -> Settings:
    from minseek.decode import Sampling
    from minseek.evaluation.grid import parse_thoughts
    from minseek.evaluation.settings import Settings
    from minseek.reasoning.limits import Limits

    def given(names: Sequence[str]) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    return Settings(
        grid=parse_thoughts(args.thoughts),
        sampling=Sampling(**given(_SAMPLING)),
        limits=Limits(**given(_LIMITS)),
        system=args.system,
        cache_tokens=args.cache_tokens,
    )


def _tasks(args: argparse.Namespace) -> list[Task]:
    from minseek.evaluation.hub import NAMED_SETS, load_named
    from minseek.evaluation.tasks import read_tasks

    path = Path(args.tasks)
    if args.tasks in NAMED_SETS and not path.exists():
        return load_named(args.tasks)[: args.limit]
    if not path.exists() and not path.suffix:
        raise InputError(f"there are no tasks {args.tasks!r}: give a file, or one of {', '.join(sorted(NAMED_SETS))}")
    return read_tasks(path)[: args.limit]


def _check_longest(
    model: Model, plan: BatchPlan, settings: Settings, variants: Sequence[Variant], trials: Sequence[Trial]
) -> None:
    """Refuse tasks that do not fit before any has run: the longest prompt, with every strategy."""
    from minseek.evaluation.trial import TrialJob

    longest = max((trial.task for trial in trials), key=lambda task: len(task.prompt))
    for trial in (trial for trial in trials if trial.task is longest):
        TrialJob(model, trial, settings, plan)


def _counted(trials: Sequence[Trial], tasks: Sequence[Task], seeds: Sequence[int]) -> str:
    names = len({trial.variant.name for trial in trials})
    return f"{len(trials)} trials: {len(tasks)} tasks, {names} strategies, {len(seeds)} seeds"


def _run(
    args: argparse.Namespace, model: Model, plan: BatchPlan, settings: Settings, trials: Sequence[Trial], told: str
) -> int:
    """Run what has no result yet; then tell about all trials."""
    from minseek.cli.view_eval import BenchView
    from minseek.engine import Engine
    from minseek.engine.interrupts import finish_pass_first
    from minseek.evaluation.records import Results, Writer, read_results
    from minseek.evaluation.sweep import sweep

    folder, kept = Path(args.output), settings.as_dict(model)
    file = folder / "results.jsonl"
    results = Results() if args.overwrite else read_results(file, kept)
    left = [trial for trial in trials if not results.has(trial)]
    print(f"minseek: {told}; {len(trials) - len(left)} have their results already", file=sys.stderr)
    run: dict[str, Any] | None = None
    if left:
        print(plan, file=sys.stderr)
        engine = Engine(model, plan)
        folder.mkdir(parents=True, exist_ok=True)
        view = BenchView(len(left), plan.slots, engine.progress)
        try:
            with Writer(file, results, kept, overwrite=args.overwrite) as out, view, finish_pass_first(engine):
                for record in sweep(model, engine, left, settings):
                    out.write(record)
                    results.records[record.key] = record
                    view.wrote(record)
        except KeyboardInterrupt:
            how = "the same command without --overwrite" if args.overwrite else "the same command"
            where = f"{view.done} of {len(left)} trials, which {folder} keeps"
            print(f"minseek: interrupted after {where}: {how} goes on from there", file=sys.stderr)
            return 130
        print(f"minseek: {view.summary()}", file=sys.stderr)
        run = {"trials": view.done, "generated": view.generated, "seconds": view.seconds, "slots": plan.slots}
    _tell(args, [results.records[trial.key] for trial in trials], kept | {"run": run})
    return 0


def _tell(args: argparse.Namespace, records: Sequence[Record], about: dict[str, Any]) -> None:
    """The summary, as a file, a picture, and a table or JSON on standard output."""
    from minseek.cli.view_eval import print_table
    from minseek.evaluation.picture import draw
    from minseek.evaluation.summary import summarise

    folder, cells = Path(args.output), summarise(records)
    summary = json.dumps({**about, "cells": [cell.as_dict() for cell in cells]}, indent=1)
    (folder / "summary.json").write_text(summary + "\n")
    title = f"{args.model} on {args.tasks}"
    if args.json:
        print(summary)
    else:
        print_table(cells, title)
    try:
        draw(cells, [folder / "accuracy.svg", folder / "accuracy.png"], title)
    except InputError as error:  # matplotlib is not there
        print(f"minseek: {error}; the results are in {folder}", file=sys.stderr)
        return
    print(f"minseek: results, summary and picture are in {folder}", file=sys.stderr)
