"""Channel from the engine's thread to the server's event loop, for the choices of one request."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from minseek.reasoning import Event


@dataclass(frozen=True)
class StreamEnd:
    """End of a choice, perhaps with an error."""

    error: Exception | None = None


Item = Event | StreamEnd


class EventChannel:
    """Queues events, in order, until the event loop takes all of them.

    The queue is bounded because the number of tokens of a request is.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._items: deque[tuple[int, Item]] = deque()

    def put(self, choice: int, item: Item) -> None:
        """Queue an event of a choice, from any thread; call `wake` afterwards."""
        self._items.append((choice, item))

    def wake(self) -> None:
        """Wake the event loop if events are queued, from any thread."""
        if self._items:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it every reader
                self._loop.call_soon_threadsafe(self._ready.set)

    async def take(self) -> list[tuple[int, Item]]:
        """Wait for events and return all that are queued."""
        while not self._items:
            self._ready.clear()
            if not self._items:  # an event may have arrived between the two lines above
                await self._ready.wait()
        return [self._items.popleft() for _ in range(len(self._items))]
