"""Memory arithmetic before a run: the tokens that its cache may hold, and those reserved for the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minseek.errors import InputError
from minseek.models import Model
from minseek.models.device import memory_bytes
from minseek.models.memory_budget import ProcessMemory, memory_budget
from minseek.reasoning.limits import Limits
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_memory import RunMemory
from minseek.reasoning.strategy import Strategy
from minseek.units import format_bytes, parse_bytes, size_to_give

_SPARE_TOKENS = 64  # allocated beyond the most that a run can come to hold: a tag may lie in the cache for a moment
MIN_TOKENS = 16  # of thinking, and of the answer, for which every run must have space


class DoesNotFitError(InputError):
    """A run whose prompt, shortest thinking and shortest answer do not fit.

    Attributes
    ----------
    needed, prompt : int
        Tokens needed in all; tokens of the prompt.
    least : int
        Tokens needed with a strategy that takes no more than `MIN_TOKENS` tokens of thinking.
    """

    def __init__(self, message: str, *, needed: int, prompt: int, least: int) -> None:
        super().__init__(message)
        self.needed, self.prompt, self.least = needed, prompt, least


@dataclass(frozen=True)
class RunPlan:
    """Memory plan of a run, in tokens counted from the beginning of the prompt.

    Attributes
    ----------
    capacity : int or None
        Tokens that the cache may hold at once; None is unlimited.
    thinking_capacity : int or None
        Tokens that it may hold while thinking; the rest of `capacity` is reserved for closing and the answer.
    bound_by : {"context", "kv-budget"}
        The limit that `capacity` comes from.
    preallocated : int or None
        Tokens that are allocated before the run: those that it can come to hold, within a budget of bytes. None without
        one.
    max_tokens_held : int or None
        Upper bound on the tokens in the cache during this run; None is unlimited.
    token_bytes, prompt_tokens : int
        Bytes of one token in the cache; tokens of the prompt.
    max_thought_tokens : int or None
        Most tokens of a thought, given or the default; None if only the cache bounds it.
    process : ProcessMemory or None
        Bytes of the whole process, with the cache at its largest; None in a slot, whose plan counts them, and if
        nothing bounds the cache.
    memory : int or None
        Budget of the whole process, if there is one.
    """

    capacity: int | None
    thinking_capacity: int | None
    bound_by: Literal["context", "kv-budget"]
    preallocated: int | None
    max_tokens_held: int | None
    token_bytes: int
    prompt_tokens: int
    max_thought_tokens: int | None = None
    process: ProcessMemory | None = None
    memory: int | None = None

    @staticmethod
    def make(model: Model, prompt: int, closing: int, options: RunOptions, slot_tokens: int | None = None) -> RunPlan:
        """Divide the tokens that the model's context and the budget of bytes allow.

        Parameters
        ----------
        prompt, closing : int
            Tokens of the prompt, and of the text that closes thinking.
        slot_tokens : int, optional
            Tokens of the slot, already allocated, that the budget is a part of.

        Raises
        ------
        DoesNotFitError
            If the prompt, the shortest thinking and the shortest answer do not fit.
        InputError
            If the device has less memory than a budget that is still to be allocated.
        """
        limits, token_bytes = options.limits, model.token_bytes(options.key_storage)
        context = None if limits.beyond_context else model.max_positions
        budget = None if limits.kv_budget is None else parse_bytes(limits.kv_budget)
        affordable = None if budget is None else budget // token_bytes
        longest_answer = limits.max_answer_tokens(0)
        shortest_answer = min(MIN_TOKENS, longest_answer)
        shortest_thinking = _shortest_thinking(options.strategy, limits)
        needed = prompt + shortest_thinking + closing + shortest_answer
        sizes = {"needed": needed, "prompt": prompt, "least": needed - max(0, shortest_thinking - MIN_TOKENS)}
        if context is not None and needed > context:
            raise DoesNotFitError(
                f"the question takes {prompt} tokens, and the model's context holds {context}, with at least "
                f"{needed - prompt} needed for thinking and answer: shorten it",
                **sizes,
            )
        if budget is not None and affordable is not None and needed > affordable:
            message = (
                f"a slot holds {slot_tokens} tokens, and prompt, thinking and answer need at least {needed}: "
                "shorten the prompt, or give larger slots"
                if slot_tokens == affordable
                else f"the KV budget of {format_bytes(budget)} holds {affordable} tokens of "
                f"{format_bytes(token_bytes)}, and prompt, thinking and answer need at least {needed}: "
                f"give {size_to_give(needed * token_bytes)} or more"
            )
            raise DoesNotFitError(message, **sizes)
        process = RunMemory.measure(model, prompt, token_bytes) if slot_tokens is None else None
        memory = memory_budget(model, options.memory) if slot_tokens is None else None
        if process is not None and memory is not None:
            within = process.tokens_within(memory)
            if needed > within:
                raise DoesNotFitError(process.refusal(memory, needed), **sizes)
            affordable = within if affordable is None else min(affordable, within)
        capacity = min((n for n in (context, affordable) if n is not None), default=None)
        thinking_capacity = None
        if capacity is not None:
            answer = min(longest_answer, max(shortest_answer, (capacity - prompt - closing) // 4))
            thinking_capacity = capacity - closing - answer
        held = _max_tokens_held(options.strategy, limits, prompt, closing + longest_answer)
        held = min((n for n in (held, capacity) if n is not None), default=None)
        preallocated = None
        if affordable is not None and held is not None and capacity is not None:
            preallocated = capacity if slot_tokens is not None else min(capacity, held + _SPARE_TOKENS)
        if preallocated is not None and slot_tokens is None:
            _check_available(model, preallocated * token_bytes)
        most = preallocated or held
        return RunPlan(
            capacity=capacity,
            thinking_capacity=thinking_capacity,
            bound_by="kv-budget" if affordable is not None and capacity == affordable else "context",
            preallocated=preallocated,
            max_tokens_held=held,
            token_bytes=token_bytes,
            prompt_tokens=prompt,
            max_thought_tokens=limits.max_thought_tokens,
            process=None if process is None or most is None else process.division(most),
            memory=memory,
        )

    def allows_thinking(self, length: int) -> bool:
        """True if a cache of `length` tokens may take another token of a thought."""
        return self.thinking_capacity is None or length < self.thinking_capacity

    def allows(self, length: int) -> bool:
        """True if a cache of `length` tokens may take another token."""
        return self.capacity is None or length < self.capacity


def _check_available(model: Model, kv_bytes: int) -> None:
    """Refuse a cache, allocated at once, that the device has no memory for."""
    available = memory_bytes(model.placement.device)
    if kv_bytes > available:
        raise InputError(
            f"a cache of {format_bytes(kv_bytes)} is allocated at once, and the device has {format_bytes(available)} "
            "of memory for it: give a smaller budget"
        )


def _shortest_thinking(strategy: Strategy, limits: Limits) -> int:
    """Tokens of thinking for which a run must have space."""
    held = sum(_thoughts_held(strategy, limits.min_thought_tokens or 1) or (0,))
    shortest, most = max(held, MIN_TOKENS), limits.max_thinking_tokens
    return shortest if most is None else min(shortest, most)


def _max_tokens_held(strategy: Strategy, limits: Limits, prompt: int, ending: int) -> int | None:
    """Most tokens that the cache can come to hold, with `ending` tokens after the last thought; None if unbounded."""
    bounds = []
    if limits.max_thinking_tokens is not None:
        bounds.append(prompt + limits.max_thinking_tokens + ending)
    if limits.max_thought_tokens is not None:
        held = _thoughts_held(strategy, limits.max_thought_tokens)
        bounds += [] if held is None else [prompt + held[0] + max(held[1], ending)]
    return min(bounds, default=None)


def _thoughts_held(strategy: Strategy, length: int) -> tuple[int, int] | None:
    """Tokens of thoughts of `length` tokens each: those held when the answer begins, and those held only before.

    None if nothing bounds them.
    """
    thoughts, keep = strategy.thoughts, strategy.keep
    if thoughts is None and keep is None:
        return None
    induced = min(n for n in (thoughts, keep) if n is not None)
    final = strategy.answer == "final-thought" and thoughts != 0
    current = not final and not strategy.independent and (thoughts is None or thoughts > induced)
    return length * (1 + induced + final), length * current
