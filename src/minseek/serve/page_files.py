"""Files of the web page; the paths are fixed, and no part of a URL becomes a path of a file."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PAGE_PATHS = tuple(_FILES)


def add_page(app: FastAPI) -> None:
    """Add the routes of the page's files."""
    for path, (name, kind) in _FILES.items():
        app.add_api_route(path, _serve(_FOLDER / name, kind), methods=["GET"], include_in_schema=False)


def _serve(file: Path, kind: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    content = file.read_bytes()

    async def respond() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return respond
