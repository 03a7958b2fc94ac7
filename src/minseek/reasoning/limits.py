"""What a run may use: tokens and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.errors import InputError
from minseek.units import parse_bytes


@dataclass(frozen=True)
class Limits:
    """Bounds of a run.

    Parameters
    ----------
    max_tokens : int
        Soft: no further thought is induced once so many tokens have been generated (the paper's limit for unbounded
        runs is the default). The thought that runs is finished.
    thinking_budget : int or None
        Hard: thinking ends after so many tokens, in the middle of a thought if need be, and the answer is given.
    answer_tokens : int
        The answer ends after so many tokens at the latest. Up to this, at most a quarter of the room that the prompt
        leaves, is kept free for it while thinking.
    kv_budget : int, str or None
        Bytes of cache that the run may allocate, as ``"16MB"``: allocated at once, as far as the context length can use
        them, and never exceeded.
    min_thought_tokens, max_thought_tokens : int or None
        A thought goes on for at least so many tokens (neither the close tag nor the end of the turn is sampled), and is
        closed after so many.
    beyond_context : bool
        Let positions pass the model's context length, untrained as they are. Otherwise thinking ends there.
    """

    max_tokens: int = 32768
    thinking_budget: int | None = None
    answer_tokens: int = 1024
    kv_budget: int | str | None = None
    min_thought_tokens: int | None = None
    max_thought_tokens: int | None = None
    beyond_context: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "thinking_budget", "answer_tokens", "min_thought_tokens", "max_thought_tokens"):
            value = getattr(self, name)
            if value is None and name not in ("max_tokens", "answer_tokens"):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise InputError(f"{name} must be 1 or more, not {value}")
        if (self.min_thought_tokens or 0) > (self.max_thought_tokens or float("inf")):
            raise InputError(
                f"min_thought_tokens must not be more than max_thought_tokens, "
                f"not {self.min_thought_tokens} and {self.max_thought_tokens}"
            )
        if not isinstance(self.beyond_context, bool):
            raise TypeError(f"beyond_context must be True or False, not {self.beyond_context!r}")
        if self.kv_budget is not None:
            parse_bytes(self.kv_budget)
