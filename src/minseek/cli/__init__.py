"""The command line: one small class for each subcommand."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from minseek import __version__
from minseek.cli.batch import BatchCommand
from minseek.cli.batch_plan import PlanCommand
from minseek.cli.env import EnvCommand
from minseek.cli.eval import BenchCommand
from minseek.cli.models import ModelsCommand
from minseek.cli.reason import ReasonCommand
from minseek.cli.serve import ServeCommand
from minseek.cli.tune import TuneCommand
from minseek.errors import InputError, MinseekWarning

COMMANDS = (
    *(ReasonCommand, BatchCommand, ServeCommand, PlanCommand, TuneCommand, BenchCommand),
    *(ModelsCommand, EnvCommand),
)
INTERRUPTED = 130  # as shells report a process ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it did what it was asked, 2 when the request was wrong, 130 after Ctrl-C.

    A server that was stopped has done what it was asked: 0.
    """
    parser = argparse.ArgumentParser(
        prog="minseek", description="Reasoning models that think long inside a memory budget fixed beforehand."
    )
    parser.add_argument("--version", action="version", version=f"minseek {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for kind in COMMANDS:
        command = kind()
        own = commands.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(own)
        own.set_defaults(run=command.run)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", MinseekWarning)
    try:
        try:
            args = parser.parse_args(argv)
            return int(args.run(args))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a reader that has gone can be dealt with
    except InputError as error:
        print(f"minseek: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minseek: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has gone, as in `minseek … | head -1`
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 1
    except OSError as error:  # a full disk, a closed output
        print(f"minseek: {error.strerror or error}", file=sys.stderr)
        return 1


def _show_warning(message: Warning | str, *_: object) -> None:
    print(f"minseek: {message}", file=sys.stderr)
