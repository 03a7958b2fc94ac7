"""``minseek reason``: think long in a short cache, then answer."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from minseek.cli.flags import (
    add_device_flags,
    add_memory_flags,
    add_model_flag,
    add_sampling_flags,
    add_strategy_flag,
    choose_model,
    load_model,
    sampling_options,
)
from minseek.cli.plugins import add_import_flag
from minseek.cli.startup import import_torch
from minseek.cli.view import ReasoningView
from minseek.errors import InputError
from minseek.evaluation.variants import parse_strategy
from minseek.reasoning.strategies import OPTIONS, RULES, STRATEGIES, MinSeek, canonical_rule, check_keep, with_options
from minseek.reasoning.strategy import ANSWER_FORMS
from minseek.reasoning.strategy_text import parse_strategy_text

if TYPE_CHECKING:
    from minseek.reasoning import Strategy


class ReasonCommand:
    """Parses the flags, runs, and shows reasoning on standard error and the answer on standard output."""

    name = "reason"
    help = "answer a question after as many induced thoughts as wanted, in a cache that stays small"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of ``minseek reason``."""
        parser.add_argument("question", help="what to answer; '-' reads it from standard input")
        add_model_flag(parser, "tiny for problems of its kinds, else smollm2")
        add_import_flag(parser)

        group = parser.add_argument_group("thinking")
        add_strategy_flag(
            group, "what is measured to be best for the model; else min-seek, or standard without thinking tags"
        )
        group.add_argument("--thoughts", metavar="N", help="induce N thoughts, or 'unbounded' (default: 10)")
        group.add_argument("--keep", type=int, metavar="K", help="keep K induced thoughts with min-seek (default: 1)")
        group.add_argument("--rule", type=canonical_rule, choices=RULES, help="keep these thoughts (default: shortest)")
        group.add_argument(
            "--answer",
            choices=ANSWER_FORMS,
            help="answer after the last thought, or after one more that closes by itself (default: direct)",
        )
        group.add_argument(
            "--stop-when-stable",
            type=int,
            metavar="W",
            help="answer after every thought, and stop once W such answers in a row agree (ours, not the paper's)",
        )
        group.add_argument(
            "--vote",
            action="store_true",
            default=None,
            help="answer after every thought, and give the most frequent answer in the end (ours, not the paper's)",
        )
        group.add_argument("--induce", metavar="TEXT", help="begin an induced thought with this text (default: 'Wait')")
        group.add_argument("--format", metavar="NAME", help="how the model writes its thinking; see 'minseek models'")
        group.add_argument("--system", metavar="TEXT", help="begin the chat with a system message")

        group = parser.add_argument_group("limits")
        group.add_argument(
            "--max-tokens",
            type=int,
            metavar="N",
            help="induce no further thought after N generated tokens (default: 32768)",
        )
        group.add_argument(
            "--thinking-budget", type=int, metavar="N", help="end thinking after N tokens, and answer; 0: do not think"
        )
        group.add_argument(
            "--answer-tokens", type=int, metavar="N", help="end the answer after N tokens (default: 1024)"
        )
        add_memory_flags(group, "bytes of cache, never exceeded, such as 16MB or 1GiB")
        group.add_argument("--min-thought-tokens", type=int, metavar="N", help="let no thought close before N tokens")
        group.add_argument("--max-thought-tokens", type=int, metavar="N", help="end every thought after N tokens")
        group.add_argument(
            "--beyond-context", action="store_true", help="let positions pass the model's context length"
        )
        group.add_argument(
            "--no-loop-detection",
            dest="loop_detection",
            action="store_false",
            help="let thoughts and answers go on that repeat the same tokens again and again",
        )

        group = parser.add_argument_group("sampling")
        add_sampling_flags(group)
        group.add_argument(
            "--seed", type=int, help="repeat the run of this seed on the same machine (default: a new one)"
        )

        group = parser.add_argument_group("machine")
        add_device_flags(group)
        group.add_argument(
            "--key-storage",
            choices=("re-rotated", "unrotated"),
            default="re-rotated",
            help="store keys in this form (default: %(default)s)",
        )

        group = parser.add_argument_group("output")
        group.add_argument("--json", action="store_true", help="print one JSON object instead of the answer")
        group.add_argument("-R", "--hide-reasoning", action="store_true", help="show the answer only")
        group.add_argument("-u", "--usage", action="store_true", help="print tokens, bytes and seconds at the end")
        group.add_argument("--plan", action="store_true", help="print the memory the run would take, and do not run")

    def run(self, args: argparse.Namespace) -> int:
        """Answer the question."""
        question = read_question(args.question)
        check_flags(args)
        began = time.perf_counter()
        import_torch()
        from minseek.decode import Sampling
        from minseek.reasoning import Limits, plan_run, stream
        from minseek.reasoning.defaults import choose_default

        choose_model(args, question)
        make_strategy(args, MinSeek())  # refuses wrong values before a model is loaded
        sampling = Sampling(**sampling_options(args))
        limits = Limits(
            **_given(args, "max_tokens", "thinking_budget", "answer_tokens", "kv_budget"),
            **_given(args, "min_thought_tokens", "max_thought_tokens", "beyond_context", "loop_detection"),
        )
        model = load_model(args, thinking=args.format)
        default = choose_default(model)
        strategy = make_strategy(args, default.strategy)
        planned: dict[str, Any] = {"strategy": strategy, "limits": limits, "induce": args.induce}
        planned |= {"system": args.system, "key_storage": args.key_storage}
        plan = plan_run(model, question, **planned)
        limits = replace(limits, max_thought_tokens=plan.max_thought_tokens)
        if args.plan:
            from minseek.cli.view_plan import show_plan

            show_plan(model, plan, as_json=args.json)
            return 0
        events = stream(model, question, sampling=sampling, **planned)
        if args.max_thought_tokens is None and plan.max_thought_tokens is not None and not args.hide_reasoning:
            limit = f"a thought ends after {plan.max_thought_tokens} tokens; --max-thought-tokens moves it"
            print(f"minseek: {limit}", file=sys.stderr)
        if strategy is None and not args.hide_reasoning:
            shown = f"the strategy is {default.strategy.summary} ({default.evidence}); --strategy chooses another"
            print(f"minseek: {shown}", file=sys.stderr)
        strategy, evidence = strategy or default.strategy, None if strategy else default.evidence
        view = ReasoningView(
            strategy,
            plan,
            thinks=limits.thinking_budget != 0,
            hide=args.hide_reasoning,
            silent=args.json,
            load_seconds=time.perf_counter() - began,
        )
        complete = view.follow(events)
        if args.json:
            report: dict[str, Any] = {"model": args.model, "question": question, **view.report()}
            report |= {"strategy": strategy.name, "evidence": evidence}
            report |= {"strategy_options": {name: getattr(strategy, name) for name in strategy.options()}}
            report |= {"sampling": asdict(sampling), "limits": asdict(limits)}
            print(json.dumps(report, ensure_ascii=False, indent=1))
        if args.usage:
            view.show_usage()
        return view.exit_code if not complete else 1 if view.is_empty else 0


def read_question(argument: str) -> str:
    """The question, from standard input if the argument is '-'."""
    question = argument
    if argument == "-":
        if sys.stdin is None:
            raise InputError("the question '-' is read from standard input, and that is closed")
        try:
            question = sys.stdin.read().strip("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"standard input is not {error.encoding} text: byte {error.start} is wrong") from None
    try:
        question.encode()
    except UnicodeEncodeError:
        raise InputError(f"the question is not UTF-8 text: {question[:40]!a}") from None
    if not question.strip():
        raise InputError(f"the question is empty, {question!r}: write one, or '-' to read it from standard input")
    return question


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that would have no effect."""
    chosen, given = parse_strategy_text(args.strategy or MinSeek.name)
    options = STRATEGIES[chosen].options()
    for name in ("induce", *OPTIONS):
        has_effect = ("thoughts" if name == "induce" else name) in options
        if getattr(args, name) is not None and not has_effect:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} has no effect with --strategy {args.strategy}: leave it out")
        if name in given and getattr(args, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} and --strategy {args.strategy} both give {name}: leave one out"
            )


def make_strategy(args: argparse.Namespace, default: Strategy) -> Strategy | None:
    """The strategy that the flags describe; None if they leave all of it to the model, whose default is given.

    Options without a name change the default; if it does not have them, they are those of Min-Seek.
    """
    options = _given(args, *OPTIONS)
    if args.strategy is None and not options and args.induce is None:
        return None
    if "thoughts" in options:
        try:
            options["thoughts"] = None if args.thoughts == "unbounded" else int(args.thoughts)
        except ValueError:
            raise InputError(f"--thoughts takes a number or 'unbounded', not {args.thoughts!r}") from None
    made = (
        with_options(default, options)
        if args.strategy is None
        else replace(parse_strategy(args.strategy).base, **options)
    )
    check_keep(made, made.thoughts, "--keep", "--thoughts")
    return made


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The flags that were given; the others keep the defaults of what they are passed to."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
