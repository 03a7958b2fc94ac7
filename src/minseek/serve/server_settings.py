"""Settings of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from minseek.decode import Sampling
from minseek.errors import InputError
from minseek.reasoning.strategy import Strategy

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
"""Origins as browsers send them: in lower case, without a path; ``null`` is that of a local file."""


@dataclass(frozen=True)
class ServerSettings:
    """Limits, access and defaults of a server.

    Attributes
    ----------
    strategy : Strategy or None
        Default strategy of chats. With None, the model thinks in its own way: once, between its tags, or not at all if
        it has none.
    sampling : Sampling
        Default sampling; its seed is not used.
    queue : int
        Choices that may wait for a slot; further requests are refused with 429.
    max_completion_tokens : int
        Maximum number of generated tokens of one choice, thinking included.
    max_body_bytes, body_seconds : int, float
        Maximum size of a request's body, and the time in which it must arrive.
    api_key : str or None
        Required for everything but ``/health`` and the page.
    metrics_key : str or None
        Required for ``/metrics`` in place of `api_key`.
    cors_origins : tuple of str
        Origins whose web pages may use the server, such as ``https://a.org``; ``*`` allows all.
    hosts : tuple of str or None
        Allowed values of the ``Host`` header; None allows any.
    log_prompts : bool
        Log the texts of requests.
    """

    strategy: Strategy | None = None
    sampling: Sampling = field(default_factory=Sampling)
    queue: int = 64
    max_completion_tokens: int = 32768
    max_body_bytes: int = 1_000_000
    body_seconds: float = 30.0
    api_key: str | None = None
    metrics_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, least in (("queue", 0), ("max_completion_tokens", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}")
        for name, key in (("API", self.api_key), ("metrics", self.metrics_key)):
            if key is not None and not (key and key.isascii() and key.isprintable()):
                raise InputError(f"the {name} key must be printable ASCII text and not empty: give another one")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"{origin!r} is no origin: give the scheme and host of a web page, and its port if it has one, "
                    "such as https://a.org or http://localhost:3000, or * for all"
                )
