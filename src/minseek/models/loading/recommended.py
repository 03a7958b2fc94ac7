"""Strategies that the evidence on a model recommends, kept in a file next to its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minseek.errors import InputError

FILE = "thinking.json"
_FIELDS = {"format": str, "strategy": str, "options": dict, "evidence": str}


@dataclass(frozen=True)
class Recommended:
    """Strategy that ``thinking.json`` in a model's directory, or ``NAME.thinking.json`` beside ``NAME.gguf``, names.

    Attributes
    ----------
    file : Path
    format : str
        Name of the thinking format that it was measured with.
    strategy : str
        Name of the strategy, and its parameters in `options`.
    evidence : str
        Where the measurements are to be found.
    """

    file: Path
    format: str
    strategy: str
    options: Mapping[str, Any]
    evidence: str


def read_recommended(source: Path) -> Recommended | None:
    """Read the recommendation for a directory or a GGUF file; None if there is none.

    Raises
    ------
    InputError
        If the file is not an object with these fields.
    """
    file = source.with_suffix(f".{FILE}") if source.suffix == ".gguf" else source / FILE
    if not file.is_file():
        return None
    try:
        fields = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is not JSON: {error}") from None
    if (
        not isinstance(fields, dict)
        or fields.keys() != _FIELDS.keys()
        or any(not isinstance(fields[name], kind) for name, kind in _FIELDS.items())
    ):
        raise InputError(
            f"{file} is no recommended strategy: give an object with format, strategy and evidence, which are texts, "
            "and options"
        )
    return Recommended(file, **fields)
