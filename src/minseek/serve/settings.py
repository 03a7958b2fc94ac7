"""What a server allows and how it answers where a request does not say."""

from __future__ import annotations

from dataclasses import dataclass, field

from minseek.decode import Sampling
from minseek.errors import InputError
from minseek.reasoning.strategies import Strategy


@dataclass(frozen=True)
class Settings:
    """Settings of a server, beside its model and its plan.

    Attributes
    ----------
    strategy : Strategy or None
        How a chat thinks that does not say how. None is as the model does by itself: once, between its tags, or not at
        all where it has none.
    sampling : Sampling
        How tokens are chosen where a request does not say; its seed is not used.
    queue : int
        Choices that may wait for a slot; who comes later is told to try again.
    max_completion_tokens : int
        Generated tokens of one choice, thinking included; a request may ask for fewer.
    max_body_bytes : int
        Of one request.
    api_key : str or None
        Needed for everything but ``/health`` and the page.
    cors_origins : tuple of str
        Origins whose pages may use the server; none by default.
    hosts : tuple of str or None
        Names by which the server may be called (the ``Host`` header); None allows any.
    log_prompts : bool
        Write the texts of requests to the log.
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
