"""From the engine's thread to the server's loop: what happens to the choices of one request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from minseek.reasoning import Event


@dataclass(frozen=True)
class StreamEnd:
    """A choice is over: well, or with an error."""

    error: Exception | None = None


Item = Event | StreamEnd


class EventChannel:
    """Holds what has happened until the loop takes it, in order and all of it at once.

    What piles up is bounded, since the tokens of a request are.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._items: deque[tuple[int, Item]] = deque()

    def put(self, choice: int, item: Item) -> None:
        """Note what happened to a choice; from any thread. `wake` tells the loop."""
        self._items.append((choice, item))

    def wake(self) -> None:
        """Tell the loop that there is something to take, if there is; from any thread."""
        if self._items:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever would read
                self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[tuple[int, Item]]:
        """Everything that has happened since the last time, once there is something."""
        while not self._items:
            self._ready.clear()
            if not self._items:  # something may have come between the two lines above
                await self._ready.wait()
        return [self._items.popleft() for _ in range(len(self._items))]
