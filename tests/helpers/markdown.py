"""Reading Markdown pages: prose, code blocks, tables; and the scripts that write them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"\s*(```+|~~~+)\s*(\S*)")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    line: int
    text: str


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found: list[Block] = []
    fence = language = ""
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, language, lines = match[1], match[2], []
            start = number
        elif fence and line.strip().startswith(fence):
            found.append(Block(language, start, "\n".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    return found


def prose_lines(text: str, *, links: bool = False) -> Iterator[tuple[int, str]]:
    """Yield number and text of every line outside code blocks; tables and targets of links only with `links`."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if match and (not fence or line.strip().startswith(fence)):
            fence = "" if fence else match[1]
        elif not fence:
            if links:
                yield number, line
            elif not line.lstrip().startswith("|"):
                yield number, re.sub(r"https?://\S+", "", re.sub(r"\]\([^)]*\)", "]", line))


def tables(text: str) -> Iterator[list[str]]:
    """Yield the rows of every table, heads first."""
    rows: list[str] = []
    for _, line in [*prose_lines(text, links=True), (0, "")]:
        if line.lstrip().startswith("|"):
            rows.append(line)
        elif rows:
            yield rows
            rows = []


def load_script(path: str) -> ModuleType:
    """Import a script of the repository by its path, without running it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
