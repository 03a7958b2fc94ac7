"""Policies and strategies of a user's own at the command line: modules that ``--import`` names, and entry points."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from itertools import pairwise

from minseek.cli.startup import import_torch
from minseek.errors import InputError, MinseekWarning

GROUP = "minseek.plugins"
"""Group of entry points; each names a module that registers policies or strategies when it is imported."""
_FLAG = "--import"


def add_import_flag(group: argparse._ActionsContainer) -> None:
    """Add ``--import``, whose modules `import_plugins` has imported before a parser is made."""
    group.add_argument(
        _FLAG,
        action="append",
        dest="imports",
        metavar="MODULE",
        help="import this module first, which registers policies or strategies of your own; may be given several times",
    )


def import_plugins(words: Sequence[str]) -> None:
    """Import all entry points, and the modules that a command line names; the current directory is searched, too.

    This comes before the parser, since what is registered belongs to the choices of its flags.

    Raises
    ------
    InputError
        If a module of the command line cannot be imported. A broken entry point is a warning.
    """
    for point in entry_points(group=GROUP):
        try:
            _import(point.load)
        except InputError as error:
            owner = "" if point.dist is None else f" of the package {point.dist.name}"
            warnings.warn(f"the plugin {point.name}{owner} is left out: {error}", MinseekWarning, stacklevel=2)
    for name in _named(words):
        import_module(name)


def import_module(name: str) -> None:
    """Import a module that ``--import`` names.

    Raises
    ------
    InputError
        If it cannot be imported.
    """
    if name.endswith(".py") or "/" in name:
        raise InputError(f"{_FLAG} takes the name of a module, as my_module or my_package.module, not {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        _import(lambda: importlib.import_module(name))
    except InputError as error:
        raise InputError(f"{_FLAG} {name}: {error}") from None


def _import(load: Callable[[], object]) -> None:
    import_torch()  # which modules import that define policies: Ctrl-C must end it
    try:
        load()
    except Exception as error:  # any error of the user's code
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, ModuleNotFoundError) else f" ({last.filename}, line {last.lineno})"
        raise InputError(f"{type(error).__name__}: {error}{where}") from error


def _named(words: Sequence[str]) -> list[str]:
    """Values of ``--import`` on a command line."""
    before = list(words[: words.index("--")] if "--" in words else words)
    named = [word.partition("=")[2] for word in before if word.startswith(f"{_FLAG}=")]
    return named + [after for word, after in pairwise(before) if word == _FLAG]
