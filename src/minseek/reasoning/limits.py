"""What a run may use: tokens and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.errors import InputError
from minseek.units import parse_bytes

_RESERVED = 1024  # tokens kept for an answer however many it may have


@dataclass(frozen=True)
class Limits:
    """Bounds of a run.

    Parameters
    ----------
    max_tokens : int
        Soft: no further thought is induced once so many tokens have been generated (the paper's limit for unbounded
        runs is the default). The thought that runs is finished.
    thinking_budget : int or None
        Hard: thinking ends after so many tokens, in the middle of a thought if need be, and the answer is given. With 0
        there is none: it is closed before it begins, and a model without tags answers as it would by itself.
    answer_tokens : int
        The answer ends after so many tokens at the latest. Up to this, at most a quarter of the room that the prompt
        leaves, is kept free for it while thinking.
    kv_budget : int, str or None
        Bytes of cache that the run may allocate, as ``"16MB"``: allocated at once, as far as the context length can use
        them, and never exceeded.
    min_thought_tokens, max_thought_tokens : int or None
        A thought goes on for at least so many tokens (neither the close tag nor the end of the turn is sampled), and is
        closed after so many.
    total_tokens : int or None
        Hard: thinking and answer together take so many tokens at most (interim answers come on top). Of these,
        `answer_tokens`, at most a quarter and 1,024, are kept for the answer; it gets all that thinking leaves.
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
    total_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in (
            *("max_tokens", "thinking_budget", "answer_tokens", "total_tokens"),
            *("min_thought_tokens", "max_thought_tokens"),
        ):
            value = getattr(self, name)
            if value is None and name not in ("max_tokens", "answer_tokens"):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            least = 0 if name == "thinking_budget" else 1
            if value < least:
                raise InputError(f"{name} must be {least} or more, not {value}")
        if (self.min_thought_tokens or 0) > (self.max_thought_tokens or float("inf")):
            raise InputError(
                f"min_thought_tokens must not be more than max_thought_tokens, "
                f"not {self.min_thought_tokens} and {self.max_thought_tokens}"
            )
        if not isinstance(self.beyond_context, bool):
            raise TypeError(f"beyond_context must be True or False, not {self.beyond_context!r}")
        if self.kv_budget is not None:
            parse_bytes(self.kv_budget)

    @property
    def most_thinking(self) -> int | None:
        """Tokens of thinking at most; None where nothing says."""
        if self.total_tokens is None:
            return self.thinking_budget
        left = self.total_tokens - min(self.answer_tokens, _RESERVED, max(1, self.total_tokens // 4))
        return left if self.thinking_budget is None else min(left, self.thinking_budget)

    def most_answer(self, thinking_tokens: int) -> int:
        """Tokens of the answer at most, after so many of thinking."""
        if self.total_tokens is None:
            return self.answer_tokens
        return min(self.answer_tokens, self.total_tokens - thinking_tokens)
