"""Flags that several commands share: the model, its device and the sampling."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from minseek.cli.plugins import add_import_flag
from minseek.errors import InputError
from minseek.evaluation.variants import parse_strategy
from minseek.reasoning.strategies import STRATEGIES

if TYPE_CHECKING:
    from minseek.models import Model

DEFAULT_MODEL = "smollm2"
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)


def add_model_flag(parser: argparse.ArgumentParser, default: str = DEFAULT_MODEL) -> None:
    """Add ``--model``; `default` is the text of the help."""
    parser.add_argument("-m", "--model", help=f"name, directory, .gguf file or Hub id (default: {default})")


def add_device_flags(group: argparse._ActionsContainer) -> None:
    """Add ``--device``, ``--dtype`` and ``--weights``."""
    group.add_argument("--device", default="auto", help="auto, cpu, cuda … (default: %(default)s)")
    group.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32 (default: %(default)s)")
    group.add_argument(
        "--weights",
        default="auto",
        metavar="FORMAT",
        help="auto (as they are stored), dense, or a format to pack them in, such as q8_0 (default: %(default)s)",
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model and its device."""
    add_model_flag(parser)
    add_device_flags(parser)
    add_import_flag(parser)


def add_memory_flags(group: argparse._ActionsContainer, kv_budget: str) -> None:
    """Add ``--memory`` and ``--kv-budget``, whose help begins with `kv_budget`."""
    group.add_argument(
        "--memory",
        metavar="SIZE",
        help="bytes that the whole process may take, such as 2GB: interpreter, weights, activations and cache "
        "(default: no limit)",
    )
    group.add_argument("--kv-budget", metavar="SIZE", help=f"{kv_budget}; with --memory, the smaller holds")


def add_sampling_flags(group: argparse._ActionsContainer) -> None:
    """Add temperature, filters and penalties, no seed; the defaults are those of `Sampling`, which imports torch."""
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default: 0.6)")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="sample from the most probable tokens that together reach P (default: 0.95)",
    )
    group.add_argument(
        "--top-k", type=int, metavar="K", help="sample from the K most probable tokens (default: from all)"
    )
    group.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="sample from tokens at least P times as probable as the most probable one (default: 0)",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="divide the positive logits of tokens in the prompt or the text by R, multiply others (default: 1, none)",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="F",
        help="subtract F from a token's logit for each time that it was generated (default: 0)",
    )
    group.add_argument(
        "--presence-penalty",
        type=float,
        metavar="F",
        help="subtract F from the logits of all tokens that were generated (default: 0)",
    )


def known_strategy(text: str) -> str:
    """Value of ``--strategy``: a strategy's name, perhaps with options.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no such strategy or option, or a value is wrong.
    """
    try:
        parse_strategy(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_strategy_flag(group: argparse._ActionsContainer, default: str) -> None:
    """Add ``--strategy``; `default` is the text of the help."""
    group.add_argument(
        "--strategy",
        type=known_strategy,
        metavar="NAME[:OPTION=VALUE,…]",
        help=f"think in this way: {', '.join(STRATEGIES)} (default: {default})",
    )


def sampling_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `Sampling` from the given flags; the others keep their defaults."""
    given = {name: getattr(args, name, None) for name in _SAMPLING}
    return {name: value for name, value in given.items() if value is not None}


def choose_model(args: argparse.Namespace, question: str | None = None) -> None:
    """Set the default model if ``-m`` was not given; `load_model` prints the reason."""
    if args.model is not None:
        return
    args.model, args.model_reason = DEFAULT_MODEL, "the default"
    if question is None:
        return
    from minseek.models import fitting_alias

    args.model = fitting_alias(question)
    if args.model == "tiny":
        args.model_reason = "which was trained on questions of this kind"
    else:
        args.model_reason = "the default for questions of other kinds than tiny's"


def print_model_reason(args: argparse.Namespace) -> None:
    """Print on standard error which model was chosen without ``-m``, and why."""
    reason = getattr(args, "model_reason", None)
    if reason is not None:
        print(f"minseek: the model is {args.model}, {reason}; -m chooses another", file=sys.stderr)


def load_model(args: argparse.Namespace, **options: Any) -> Model:
    """Load the model that the flags or `choose_model` name."""
    from minseek.cli.view import loading
    from minseek.models import load
    from minseek.models.process_memory import return_freed_memory

    return_freed_memory()
    print_model_reason(args)
    with loading(args.model):
        return load(
            args.model, device=args.device, dtype=args.dtype, weights=args.weights, memory=args.memory, **options
        )
