"""Settings of a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from minseek.decode import Sampling
from minseek.errors import InputError
from minseek.reasoning.strategy import Strategy


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
    max_body_bytes : int
        Maximum size of a request's body.
    api_key : str or None
        Required for everything but ``/health`` and the page.
    cors_origins : tuple of str
        Origins whose web pages may use the server.
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
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, least in (("queue", 0), ("max_completion_tokens", 1), ("max_body_bytes", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError("the API key must be printable ASCII text and not empty: give another one")
