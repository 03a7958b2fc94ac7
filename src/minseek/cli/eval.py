"""``minseek eval``: accuracy against the number of thoughts, on tasks with known answers."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseek.cli.batch_plan import plan_text
from minseek.cli.flags import (
    add_memory_flags,
    add_model_flags,
    add_sampling_flags,
    choose_model,
    load_model,
    sampling_options,
)
from minseek.cli.startup import import_torch
from minseek.errors import InputError
from minseek.files import check_output_file, check_output_folder
from minseek.reasoning.strategies import STRATEGIES
from minseek.signals import exit_code

if TYPE_CHECKING:
    from minseek.evaluation.evaluation import EvalSummary, Evaluation
    from minseek.evaluation.tasks import Task
    from minseek.evaluation.thought_counts import Thoughts

_STRATEGIES = ("standard", "budget-forcing", "min-seek")
_THOUGHTS = "0,2,4,6,10,20,50,100"
_SEQUENCES = 32
RESULTS = "results.jsonl"
_LIMITS = (
    *("max_tokens", "thinking_budget", "answer_tokens"),
    *("min_thought_tokens", "max_thought_tokens", "beyond_context"),
)


class EvalCommand:
    """Parses the flags, plans, runs the trials that have no result, and shows the summary."""

    name = "eval"
    help = "measure accuracy, tokens, bytes and seconds against the number of thoughts; a stopped run is resumed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek eval``."""
        parser.add_argument(
            "tasks",
            metavar="TASKS.jsonl|NAME",
            help='{"id": …, "question": …, "answer": …} a line, or aime-2024, amc, gpqa-diamond, math-500, mmlu-pro',
        )
        add_model_flags(parser)
        parser.add_argument(
            "-o", "--output", metavar="DIR", help="write results.jsonl, summary.json and the picture here"
        )
        parser.add_argument("--limit", type=int, metavar="N", help="take the first N tasks only")

        group = parser.add_argument_group("comparison")
        group.add_argument(
            "--strategy",
            action="append",
            metavar="NAME[:OPTION=VALUE,…]",
            help=f"compare this strategy, such as min-seek:rule=random,keep=2; repeat it for more "
            f"from {', '.join(STRATEGIES)} (default: {', '.join(_STRATEGIES)})",
        )
        group.add_argument(
            "--thoughts",
            default=_THOUGHTS,
            metavar="LIST",
            help="induce these numbers of thoughts (default: %(default)s)",
        )
        group.add_argument(
            "--seeds", default="0", metavar="LIST", help="try each task with each of these seeds (default: %(default)s)"
        )

        group = parser.add_argument_group("sampling")
        add_sampling_flags(group)
        group.add_argument("--system", metavar="TEXT", help="begin the chats with a system message")
        group.add_argument("--format", metavar="NAME", help="how the model writes its thinking; see 'minseek models'")

        group = parser.add_argument_group("limits of each trial")
        group.add_argument(
            "--max-tokens", type=int, metavar="N", help="where 'unbounded' thinking ends (default: 32768)"
        )
        group.add_argument("--thinking-budget", type=int, metavar="N", help="end thinking after N tokens, and answer")
        group.add_argument(
            "--answer-tokens", type=int, metavar="N", help="end an answer after N tokens (default: 1024)"
        )
        group.add_argument("--min-thought-tokens", type=int, metavar="N", help="let no thought close before N tokens")
        group.add_argument("--max-thought-tokens", type=int, metavar="N", help="end every thought after N tokens")
        group.add_argument(
            "--cache-tokens", type=int, metavar="N", help="tokens of cache (default: the model's context)"
        )
        group.add_argument(
            "--beyond-context", action="store_true", help="let caches grow beyond the context, up to --cache-tokens"
        )

        group = parser.add_argument_group("memory")
        add_memory_flags(group, "bytes that all trials' caches may take, such as 192MB (default: four contexts)")
        group.add_argument(
            "--sequences", type=int, default=_SEQUENCES, metavar="N", help="trials in flight (default: %(default)s)"
        )
        group.add_argument("--plan", action="store_true", help="print trials and memory, and do not run")

        group = parser.add_argument_group("output")
        group.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        group.add_argument("--overwrite", action="store_true", help="discard the results that DIR holds")

    def run(self, args: argparse.Namespace) -> int:
        """Run the sweep; 130 after Ctrl-C, 143 after SIGTERM."""
        _check_flags(args)
        import_torch()
        from minseek.decode import Sampling
        from minseek.evaluation import plan_evaluation
        from minseek.evaluation.accuracy_plot import import_matplotlib
        from minseek.evaluation.variants import parse_strategies
        from minseek.reasoning import Limits

        options: dict[str, Any] = {
            "strategies": args.strategy or _STRATEGIES,
            "thoughts": parse_thoughts(args.thoughts),
            "seeds": parse_seeds(args.seeds),
            "sampling": Sampling(**sampling_options(args)),
            "limits": Limits(**_given(args, _LIMITS)),
            **{name: getattr(args, name) for name in ("system", "cache_tokens", "kv_budget", "sequences", "overwrite")},
        }
        parse_strategies(options["strategies"])  # before a model is loaded
        tasks = _tasks(args)
        choose_model(args)
        import_matplotlib()
        model = load_model(args, thinking=args.format)
        results = None if args.plan else Path(args.output) / RESULTS
        evaluation = plan_evaluation(model, tasks, results=results, **options)
        if args.plan:
            planned = {"tasks": len(tasks), "trials": len(evaluation.trials), "settings": evaluation.settings}
            report = json.dumps(evaluation.plan.as_dict() | planned, indent=1)
            print(report if args.json else f"{evaluation}\n{plan_text(evaluation.plan)}")
            return 0
        try:
            summary = _run(args, evaluation)
        except KeyboardInterrupt as error:
            return exit_code(error)
        _show(args, summary)
        return 0


def parse_thoughts(text: str) -> tuple[Thoughts, ...]:
    """Parse numbers of thoughts, ``0,2,4,unbounded``.

    Raises
    ------
    InputError
        If one is neither a number nor "unbounded".
    """
    numbers: list[Thoughts] = []
    for part in text.split(","):
        word = part.strip()
        if word != "unbounded" and not re.fullmatch(r"\d{1,9}", word):
            raise InputError(f"numbers of thoughts are given as 0,2,4 or unbounded, not {part!r}")
        numbers.append(None if word == "unbounded" else int(word))
    return tuple(numbers)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds, ``0,1,2``.

    Raises
    ------
    InputError
        If one is not a number, or is given twice.
    """
    parts = [part.strip() for part in text.split(",")]
    wrong = next((part for part in parts if not re.fullmatch(r"\d{1,18}", part)), None)
    if wrong is not None:
        raise InputError(f"seeds are given as numbers from 0 on, 0,1,2, not {wrong!r}")
    seeds = tuple(map(int, parts))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"each seed can be given once, not {text!r}")
    return seeds


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse wrong flags before anything is loaded."""
    from minseek.evaluation.verifier import require_math_verify

    if args.output is None and not args.plan:
        raise InputError("-o DIR is missing: give a directory for the results, or --plan to see trials and memory only")
    if not args.plan:
        check_output_folder(Path(args.output), parents=True)
        if (Path(args.output) / RESULTS).exists():
            check_output_file(Path(args.output) / RESULTS)
    for name in ("limit", "sequences", "cache_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be 1 or more, not {value}")
    if args.output is not None and Path(args.output).exists() and not Path(args.output).is_dir():
        raise InputError(f"{args.output} is not a directory: give one for the results")
    if not args.plan:
        require_math_verify()


def _given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The flags that were given; the others keep their defaults."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _tasks(args: argparse.Namespace) -> list[Task]:
    from minseek.evaluation.hub import NAMED_SETS, load_named
    from minseek.evaluation.tasks import read_tasks

    path = Path(args.tasks)
    if args.tasks in NAMED_SETS and not path.exists():
        return load_named(args.tasks)[: args.limit]
    if not path.exists() and not path.suffix:
        raise InputError(f"there are no tasks {args.tasks!r}: give a file, or one of {', '.join(sorted(NAMED_SETS))}")
    return read_tasks(path)[: args.limit]


def _run(args: argparse.Namespace, evaluation: Evaluation) -> EvalSummary:
    """Run the trials that have no result yet, with a live line; tell how to resume if that ends early."""
    from minseek.cli.view_eval import EvalView

    left, folder = len(evaluation.remaining), Path(args.output)
    done = len(evaluation.trials) - left
    print(f"minseek: {evaluation}; {done} have their results already", file=sys.stderr)
    if not left:
        return evaluation.run()
    print(plan_text(evaluation.plan), file=sys.stderr)
    view = EvalView(evaluation)
    try:
        with view:
            summary = evaluation.run(view.add)
    except (KeyboardInterrupt, OSError) as error:
        command = "the same command without --overwrite" if args.overwrite else "the same command"
        kept = f"after {view.done} of {left} trials, which {folder} keeps: {command} resumes from there"
        if isinstance(error, OSError):
            raise OSError(error.errno, f"{error.strerror}, {kept}", error.filename) from None
        print(f"minseek: interrupted {kept}", file=sys.stderr)
        raise
    print(f"minseek: {view.summary()}", file=sys.stderr)
    return summary


def _show(args: argparse.Namespace, summary: EvalSummary) -> None:
    """Write the summary and the plot, and print a table or JSON."""
    from minseek.cli.view_eval import print_table
    from minseek.evaluation.accuracy_plot import draw_accuracy

    folder, title = Path(args.output), f"{args.model} on {args.tasks}"
    report = json.dumps(summary.as_dict(), indent=1)
    (folder / "summary.json").write_text(report + "\n")
    if args.json:
        print(report)
    else:
        print_table(summary.cells, title)
    try:
        draw_accuracy(summary.cells, [folder / "accuracy.svg", folder / "accuracy.png"], title)
    except InputError as error:  # matplotlib is not installed
        print(f"minseek: {error}; the results are in {folder}", file=sys.stderr)
        return
    print(f"minseek: results, summary and picture are in {folder}", file=sys.stderr)
