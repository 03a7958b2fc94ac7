"""MkDocs hook: links from a page to a file of the repository work on the site too.

A page may link to source files, results and pictures outside docs/, which MkDocs does not know. Text files become pages
of the site with their source in a code block, pictures are copied, and links to folders become plain text. A link to a
file that does not exist is left as it is, so that `mkdocs build --strict` refuses it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
PICTURES = (".svg", ".png", ".jpg")
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json", ".toml": "toml", ".yml": "yaml", ".sh": "bash"}
_LARGEST = 200_000
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the changelog, and every repository file outside docs/ that a page links to."""
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text()))
    wanted: set[str] = set()
    for file in files.documentation_pages():
        if file.generated_by is None:
            for match in _LINK.finditer(file.content_string):
                path = _outside(match["target"], file.src_uri)
                if path is not None and (ROOT / path).is_file():
                    wanted.add(path)
    for path in sorted(wanted):
        source = ROOT / path
        if source.suffix in PICTURES:
            files.append(File.generated(config, _copied(path), abs_src_path=str(source)))
        elif source.stat().st_size <= _LARGEST:
            files.append(File.generated(config, _copied(path), content=_page_of(path, source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links out of docs/ into links to the copies that `on_files` made."""
    if page.file.generated_by is not None:
        return markdown

    def turned(match: re.Match[str]) -> str:
        path = _outside(match["target"], page.file.src_uri)
        if path is None or not (ROOT / path).exists():
            return match[0]
        if files.get_file_from_path(_copied(path)) is None:  # a folder, or too large for a page
            return match["text"]
        target = posixpath.relpath(_copied(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match['image']}[{match['text']}]({target})"

    return _LINK.sub(turned, markdown)


def _outside(target: str, page: str) -> str | None:
    """Return the path in the repository of a link that leaves docs/; None for any other link."""
    if ":" in target or target.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path == "docs" or path.startswith(("docs/", "..")) else path


def _copied(path: str) -> str:
    """Return where a repository file is on the site."""
    name, suffix = os.path.splitext(path)
    if suffix in PICTURES:
        return f"source/{path}"
    return f"source/{name}.md" if suffix == ".md" else f"source/{path}.md"


def _page_of(path: str, source: Path) -> str:
    text = source.read_text()
    if source.suffix == ".md":
        return f"# {path}\n\n" + _LINK.sub(lambda match: match["text"], text.partition("\n")[2])
    fence = "~~~~~~"
    return f"# {path}\n\n{fence}{LANGUAGES.get(source.suffix, 'text')}\n{text}\n{fence}\n"
