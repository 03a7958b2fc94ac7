"""Bytes of the process during a run, as a function of the tokens in its cache."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.models import Model
from minseek.models.memory_budget import ProcessMemory, interpreter_bytes, refusal

_PREFILL_TOKENS = 512  # most tokens of the prompt in one pass
_MOST_TOKENS = 2**40


@dataclass(frozen=True)
class RunMemory:
    """Parts of the process that do not depend on the size of the cache, and what does.

    Attributes
    ----------
    model : Model
    prompt : int
        Tokens of the prompt.
    token_bytes : int
        Bytes of one token in the cache.
    interpreter_bytes : int
        Bytes of the process without the model.
    """

    model: Model
    prompt: int
    token_bytes: int
    interpreter_bytes: int

    @classmethod
    def measure(cls, model: Model, prompt: int, token_bytes: int) -> RunMemory:
        """Measure the process as it is now."""
        return cls(model, prompt, token_bytes, interpreter_bytes(model))

    def division(self, tokens: int) -> ProcessMemory:
        """Parts of the process whose cache has come to hold that many tokens."""
        return ProcessMemory(
            interpreter_bytes=self.interpreter_bytes,
            weight_bytes=self.model.weight_bytes,
            activation_bytes=self.model.activation_bytes(min(self.prompt, _PREFILL_TOKENS), tokens, 1),
            kv_bytes=tokens * self.token_bytes,
        )

    def tokens_within(self, memory: int) -> int:
        """Most tokens of a cache with which the process takes no more than `memory` bytes; 0 if none fit."""
        low, high = 0, 1
        while high < _MOST_TOKENS and self.division(high).total_bytes <= memory:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.division(middle).total_bytes <= memory else (low, middle)
        return low

    def refusal(self, memory: int, tokens: int) -> str:
        """Say why a budget is too small for a cache of `tokens` tokens, and which would do."""
        return refusal(memory, self.division(tokens))
