"""Output files and directories, tried before long work begins."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from minseek.errors import InputError


def check_output_file(path: Path) -> None:
    """Refuse a path at which no file can be written; nothing is changed.

    Raises
    ------
    InputError
        If the path is a directory, its directory is missing, or it may not be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory: give the name of a file")
    if not path.exists():
        if not path.parent.is_dir():
            raise InputError(f"there is no directory {path.parent} for {path.name}: make it first")
        _try_directory(path.parent, path)
    elif stat.S_ISREG(path.stat().st_mode):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        except OSError as error:
            raise _cannot_be_written(path, error) from None
    elif not os.access(path, os.W_OK):  # opening a pipe would wait for its reader
        raise InputError(f"{path} cannot be written: Permission denied; give another path")


def check_output_folder(path: Path, *, parents: bool = False) -> None:
    """Refuse a path that is no directory in which files can be written, and at which none can be made.

    Parameters
    ----------
    parents : bool
        Missing parents will be made as well.

    Raises
    ------
    InputError
        If the path is a file, its parent is missing, or it may not be written.
    """
    if path.is_dir():
        _try_directory(path, path)
        return
    if path.exists():
        raise InputError(f"{path} is a file: give the name of a directory")
    parent = path.absolute().parent
    if parents:
        parent = next(folder for folder in path.absolute().parents if folder.exists())
    if parents and not parent.is_dir():
        raise InputError(f"{path} cannot be made, as {parent} is a file: give another directory")
    if not parent.is_dir():
        raise InputError(f"there is no directory {path.parent} for {path.name}: make it first")
    _try_directory(parent, path)


def _try_directory(folder: Path, path: Path) -> None:
    """Refuse a directory in which no file can be made."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _cannot_be_written(path, error) from None


def _cannot_be_written(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be written: {error.strerror or error}; give another path")
