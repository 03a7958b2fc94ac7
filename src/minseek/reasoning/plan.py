"""The memory arithmetic before a run: how many tokens its cache may hold, and which of them are left for the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minseek.cache import KeyStorage
from minseek.errors import InputError
from minseek.models import Model
from minseek.models.device import memory_bytes
from minseek.reasoning.limits import Limits
from minseek.reasoning.strategies import Strategy
from minseek.units import format_bytes, parse_bytes

LEAST = 16  # tokens of thinking, and tokens of the answer, that a run must have room for


class DoesNotFitError(InputError):
    """A run whose prompt and least of thinking and answer do not fit.

    Attributes
    ----------
    needed, prompt : int
        Tokens at least, all together; those of the prompt.
    least : int
        Those needed with a strategy that asks for no more than `LEAST` tokens of thinking.
    """

    def __init__(self, message: str, *, needed: int, prompt: int, least: int) -> None:
        super().__init__(message)
        self.needed, self.prompt, self.least = needed, prompt, least


@dataclass(frozen=True)
class RunPlan:
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
    worst : int or None
        Tokens that the cache can come to hold at most; None is unlimited.
    token_bytes, prompt_tokens : int
        Bytes of one token in the cache; tokens of the prompt.
    """

    total: int | None
    thinking: int | None
    bound_by: Literal["context", "kv-budget"]
    allocate: int | None
    worst: int | None
    token_bytes: int
    prompt_tokens: int

    @staticmethod
    def make(
        model: Model,
        prompt: int,
        closing: int,
        strategy: Strategy,
        limits: Limits,
        key_storage: KeyStorage,
        slot_tokens: int | None = None,
    ) -> RunPlan:
        """Divide what the model's context and the budget of bytes leave, given the tokens of prompt and closing text.

        `slot_tokens` are those of the slot that the budget is a part of, if there is one: it is allocated already.

        Raises
        ------
        DoesNotFitError
            If the prompt and the least of thinking and answer do not fit.
        InputError
            If the device has less memory than a budget that is still to be allocated.
        """
        token_bytes = model.token_bytes(key_storage)
        context = None if limits.beyond_context else model.max_positions
        budget = None if limits.kv_budget is None else parse_bytes(limits.kv_budget)
        affordable = None if budget is None else budget // token_bytes
        longest_answer = limits.most_answer(0)
        least_answer = min(LEAST, longest_answer)
        shortest = sum(_thoughts_held(strategy, limits.min_thought_tokens or 1) or (0,))
        least_thinking = max(shortest, LEAST)
        if limits.most_thinking is not None:
            least_thinking = min(least_thinking, limits.most_thinking)
        needed = prompt + least_thinking + closing + least_answer
        sizes = {"needed": needed, "prompt": prompt, "least": needed - max(0, least_thinking - LEAST)}
        if context is not None and needed > context:
            raise DoesNotFitError(
                f"the question takes {prompt} tokens, and the model's context holds {context}, with at least "
                f"{needed - prompt} needed for thinking and answer: shorten it",
                **sizes,
            )
        if budget is not None and affordable is not None and needed > affordable:
            if slot_tokens == affordable:
                raise DoesNotFitError(
                    f"a slot holds {slot_tokens} tokens, and prompt, thinking and answer need at least {needed}: "
                    "shorten the prompt, or give larger slots",
                    **sizes,
                )
            raise DoesNotFitError(
                f"the KV budget of {budget:,} bytes holds {affordable} tokens of {token_bytes:,} bytes, and prompt, "
                f"thinking and answer need at least {needed}: give {needed * token_bytes}B or more",
                **sizes,
            )
        total = min((n for n in (context, affordable) if n is not None), default=None)
        if budget is not None and total is not None and slot_tokens is None:  # a slot is there already
            there = memory_bytes(model.placement.device)
            if total * token_bytes > there:
                raise InputError(
                    f"the KV budget of {format_bytes(budget)} is allocated at once, and the device has "
                    f"{format_bytes(there)} of memory for it: give less"
                )
        thinking = None
        if total is not None:
            answer = min(longest_answer, max(least_answer, (total - prompt - closing) // 4))
            thinking = total - closing - answer
        worst = None
        if limits.max_thought_tokens is not None:
            held = _thoughts_held(strategy, limits.max_thought_tokens)
            if held is not None:
                worst = prompt + held[0] + max(held[1], closing + longest_answer)
        return RunPlan(
            total=total,
            thinking=thinking,
            bound_by="kv-budget" if affordable is not None and total == affordable else "context",
            allocate=total if budget is not None else None,
            worst=min((n for n in (worst, total) if n is not None), default=None),
            token_bytes=token_bytes,
            prompt_tokens=prompt,
        )

    def allows_thinking(self, length: int) -> bool:
        """Whether a cache of that many tokens may take another one of a thought."""
        return self.thinking is None or length < self.thinking

    def allows(self, length: int) -> bool:
        """Whether a cache of that many tokens may take another one."""
        return self.total is None or length < self.total


def _thoughts_held(strategy: Strategy, length: int) -> tuple[int, int] | None:
    """Tokens of thoughts, if each has that length: those held when the answer begins, and those held only before.

    None where nothing bounds them.
    """
    wanted, keep = strategy.thoughts, getattr(strategy, "keep", None)
    if wanted is None and keep is None:
        return None
    induced = min(n for n in (wanted, keep) if n is not None)
    final = strategy.answer == "final-thought" and wanted != 0
    current = not final and (wanted is None or wanted > induced)
    return length * (1 + induced + final), length * current
