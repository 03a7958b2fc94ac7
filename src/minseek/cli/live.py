"""Status line at the bottom of a terminal for long work."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


class LiveLine(ABC):
    """Context manager that shows the line while it is entered, if `live`."""

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console, self._is_live = console, live

    @abstractmethod
    def _status(self) -> str:
        """Return the current text of the line."""

    def __enter__(self) -> Self:
        if self._is_live:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self._render, transient=True, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_live:
            self._live.stop()

    def _render(self) -> Text:
        from rich.text import Text

        return Text(self._status(), style="reverse", no_wrap=True, overflow="ellipsis")
