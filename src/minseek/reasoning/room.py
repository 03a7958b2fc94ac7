"""How many tokens a run's cache may hold, and which of them are left for the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minseek.cache import KeyStorage
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.hardware import memory_bytes
from minseek.reasoning.limits import Limits
from minseek.units import format_bytes, parse_bytes

_LEAST = 16  # tokens of thinking and answer that a run must have room for


@dataclass(frozen=True)
class Room:
    """Tokens, counted from the beginning of the prompt.

    Attributes
    ----------
    total : int or None
        Tokens that the cache may hold at once; None is unlimited.
    thinking : int or None
        Tokens that it may hold while thinking: what lies above is left for closing and the answer.
    bound_by : str
        Which limit `total` comes from.
    allocate : int or None
        Tokens to allocate beforehand, where there is a budget of bytes.
    token_bytes, prompt_tokens : int
        Bytes of one token in the cache; tokens of the prompt.
    """

    total: int | None
    thinking: int | None
    bound_by: Literal["context", "kv-budget"]
    allocate: int | None
    token_bytes: int
    prompt_tokens: int

    @staticmethod
    def measure(model: Model, prompt: int, closing: int, limits: Limits, keys: KeyStorage) -> Room:
        """Divide what the model's context and the budget of bytes leave.

        Raises
        ------
        InputError
            If the prompt and the least of thinking and answer do not fit.
        """
        token_bytes = model.token_bytes(keys)
        context = None if limits.beyond_context else model.max_positions
        budget = None if limits.kv_budget is None else parse_bytes(limits.kv_budget)
        affordable = None if budget is None else budget // token_bytes
        needed = prompt + closing + _LEAST
        if context is not None and needed > context:
            raise InputError(
                f"the question takes {prompt} tokens, and the model's context holds {context} with {closing + _LEAST} "
                "needed for thinking and answer: shorten it"
            )
        if budget is not None and affordable is not None and needed > affordable:
            raise InputError(
                f"the KV budget of {budget:,} bytes holds {affordable} tokens of {token_bytes:,} bytes, and prompt, "
                f"thinking and answer need at least {needed}: give {needed * token_bytes}B or more"
            )
        total = min((n for n in (context, affordable) if n is not None), default=None)
        installed = memory_bytes(model.placement.device)
        if budget is not None and total is not None and total * token_bytes > installed:
            raise InputError(
                f"the KV budget of {format_bytes(budget)} would be allocated at once, and the device has "
                f"{format_bytes(installed)} of memory: give less"
            )
        by_budget = affordable is not None and total == affordable
        reserve = None
        if total is not None:
            reserve = closing + min(limits.answer_tokens, (total - prompt - closing) // 4)
        return Room(
            total=total,
            thinking=None if total is None or reserve is None else total - reserve,
            bound_by="kv-budget" if by_budget else "context",
            allocate=total if budget is not None else None,
            token_bytes=token_bytes,
            prompt_tokens=prompt,
        )

    def allows_thinking(self, length: int) -> bool:
        """Whether a cache of that many tokens may take another one of a thought."""
        return self.thinking is None or length < self.thinking

    def allows(self, length: int) -> bool:
        """Whether a cache of that many tokens may take another one."""
        return self.total is None or length < self.total
