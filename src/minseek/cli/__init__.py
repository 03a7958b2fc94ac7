"""The command line: one class for each command, which parses, calls and renders."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from minseek import __version__
from minseek.cli.batch import BatchCommand
from minseek.cli.batch_plan import PlanCommand
from minseek.cli.env import EnvCommand
from minseek.cli.eval import EvalCommand
from minseek.cli.flag_names import with_flags
from minseek.cli.models import ModelsCommand
from minseek.cli.plugins import import_module, import_plugins
from minseek.cli.quantize import QuantizeCommand
from minseek.cli.reason import ReasonCommand
from minseek.cli.serve import ServeCommand
from minseek.cli.startup import raise_on_sigterm
from minseek.cli.tune import TuneCommand
from minseek.errors import InputError, MinseekWarning
from minseek.signals import exit_code

COMMANDS = (
    *(ReasonCommand, BatchCommand, ServeCommand, PlanCommand, TuneCommand, EvalCommand),
    *(QuantizeCommand, ModelsCommand, EnvCommand),
)
RENAMED = {"bench": "eval"}
_EXTENSIBLE = ("reason", "batch", "serve", "plan", "eval", "models")  # commands with policies or strategies


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code.

    It is 0 on success, 1 after an error of the system, 2 for a wrong request, 3 if some requests of a batch failed, 130
    after Ctrl-C and 143 after SIGTERM. A server that is stopped has succeeded.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals that cannot show a character
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", MinseekWarning)
    command: argparse.ArgumentParser | None = None
    try:
        with raise_on_sigterm(), _flushed_output():
            words = sys.argv[1:] if argv is None else list(argv)
            if words and words[0] in RENAMED:
                raise InputError(f"there is no command {words[0]}: use minseek {RENAMED[words[0]]}")
            if words and words[0] in _EXTENSIBLE:
                import_plugins(words)
            parser = _make_parser()
            if not words:
                parser.print_help()
                return 0
            args, extra = parser.parse_known_args(words)
            command = args.parser
            if extra:
                args.parser.error(f"unrecognized arguments: {' '.join(extra)}")
            for module in getattr(args, "imports", None) or ():
                import_module(module)  # at once if it has been imported
            return int(args.run(args))
    except InputError as error:
        print(f"minseek: {str(error) if command is None else with_flags(str(error), command)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("minseek: interrupted", file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:  # the reader of the output has ended, as in `minseek … | head -1`
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 1
    except OSError as error:  # a full disk, a closed output
        where = f"{error.filename}: " if error.filename else ""
        print(f"minseek: {where}{error.strerror or error}", file=sys.stderr)
        return 1


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="minseek", description="Reasoning models that think long inside a memory budget fixed beforehand."
    )
    parser.add_argument("--version", action="version", version=f"minseek {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for kind in COMMANDS:
        command = kind()
        subparser = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


@contextmanager
def _flushed_output() -> Iterator[None]:
    """Flush standard output at the end, where an error, such as a closed pipe, is still handled."""
    try:
        yield
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()


class _Parser(argparse.ArgumentParser):
    """A parser that answers wrong arguments in one line; the usage of some commands is twenty lines long."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the flags are listed, and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what it takes\n")


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"minseek: {message}", file=sys.stderr)
