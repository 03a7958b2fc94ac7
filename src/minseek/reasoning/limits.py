"""Limits of a run, in tokens and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.errors import InputError, check_int, check_type
from minseek.units import parse_bytes

_ANSWER_RESERVE = 1024  # tokens of `total_tokens` reserved for the answer, at most


@dataclass(frozen=True)
class Limits:
    """Bounds of a run.

    Parameters
    ----------
    max_tokens : int
        Soft: no further thought is induced after this many generated tokens (the default is the paper's limit for
        unbounded runs). The current thought is finished.
    thinking_budget : int or None
        Hard: thinking ends after this many tokens, in the middle of a thought if need be, and the answer follows. With
        0 there is no thinking: it is closed before it begins, and a model without tags answers as it would by itself.
    answer_tokens : int
        The answer ends after this many tokens at the latest. While thinking, up to this many, but at most a quarter of
        the tokens that the prompt leaves, are kept free for it.
    kv_budget : int, str or None
        Bytes of cache that the run may allocate, as ``"16MB"``: allocated at once, as far as the context length can use
        them, and never exceeded.
    min_thought_tokens, max_thought_tokens : int or None
        Least and most tokens of a thought. Before the least, neither the close tag nor the end of the turn is sampled;
        at the most, the thought is closed.
    beyond_context : bool
        Let positions pass the model's context length, for which it was not trained. Otherwise thinking ends there.
    total_tokens : int or None
        Hard: thinking and answer together take at most this many tokens (interim answers come on top). Of these,
        `answer_tokens`, but at most a quarter and 1,024, are reserved for the answer, which gets all that thinking
        leaves.
    answers_in_total : bool
        Interim answers count as well: thinking ends while the next answer of up to `answer_tokens` still fits into
        `total_tokens`.
    loop_detection : bool
        End a thought or an answer that repeats itself: a cycle of up to 512 tokens, three times in a row or more, and
        for 128 tokens or more (384 if the cycle has fewer than 12 different ones); or nearly so, with one token of 16
        different in each round, for 256 tokens or more (32 rounds if the cycle is shorter than 48 tokens). Of a thought
        only the first round of the cycle is left, and `MinSeek` never keeps it.
    """

    max_tokens: int = 32768
    thinking_budget: int | None = None
    answer_tokens: int = 1024
    kv_budget: int | str | None = None
    min_thought_tokens: int | None = None
    max_thought_tokens: int | None = None
    beyond_context: bool = False
    total_tokens: int | None = None
    answers_in_total: bool = False
    loop_detection: bool = True

    def __post_init__(self) -> None:
        for name in (
            *("max_tokens", "thinking_budget", "answer_tokens", "total_tokens"),
            *("min_thought_tokens", "max_thought_tokens"),
        ):
            value = getattr(self, name)
            if value is None and name not in ("max_tokens", "answer_tokens"):
                continue
            check_int(name, value, least=0 if name == "thinking_budget" else 1)
        if (self.min_thought_tokens or 0) > (self.max_thought_tokens or float("inf")):
            raise InputError(
                f"min_thought_tokens must not be more than max_thought_tokens, "
                f"not {self.min_thought_tokens} and {self.max_thought_tokens}"
            )
        for name in ("beyond_context", "answers_in_total", "loop_detection"):
            check_type(f"{name} must be True or False", getattr(self, name), bool)
        if self.kv_budget is not None:
            parse_bytes(self.kv_budget)

    @classmethod
    def from_total(
        cls,
        total_tokens: int,
        *,
        thinking_budget: int | None = None,
        answer_tokens: int | None = None,
        answers: int | None = 1,
        min_thought_tokens: int | None = None,
        max_thought_tokens: int | None = None,
        loop_detection: bool = True,
    ) -> Limits:
        """Divide the tokens that a request may generate between thinking and answers.

        One answer follows the rule of `total_tokens`. With several answers up to half of the tokens is reserved for all
        of them together; an unknown number of them is counted as they are written, none longer than a quarter of all
        tokens and 1,024.

        Parameters
        ----------
        total_tokens : int
            Tokens that the run may generate, all answers included.
        thinking_budget, answer_tokens : int, optional
            Bounds that the request gives by itself.
        answers : int or None
            Answers that the run writes, those included that a strategy only compares; None if their number is open.
        min_thought_tokens, max_thought_tokens, loop_detection : optional
            Passed on.

        Raises
        ------
        InputError
            If the answers do not fit, or a number is too small.
        """
        answer = total_tokens if answer_tokens is None else min(answer_tokens, total_tokens)
        if answers is None:
            answer = min(answer, _ANSWER_RESERVE, max(1, total_tokens // 4))
        elif answers > 1:
            reserved = min(answer, max(1, total_tokens // (2 * answers)))
            left = total_tokens - answers * reserved
            if left < 0:
                raise InputError(
                    f"{answers} answers, one after each thought, do not fit into {total_tokens} tokens: allow more, or "
                    "fewer thoughts"
                )
            thinking_budget = left if thinking_budget is None else min(left, thinking_budget)
            answer = min(answer, (total_tokens - thinking_budget) // answers)
        return cls(
            max_tokens=total_tokens,
            total_tokens=total_tokens,
            thinking_budget=thinking_budget,
            answer_tokens=answer,
            answers_in_total=answers is None,
            min_thought_tokens=min_thought_tokens,
            max_thought_tokens=max_thought_tokens,
            loop_detection=loop_detection,
        )

    @property
    def max_thinking_tokens(self) -> int | None:
        """Most tokens of thinking; None if nothing bounds them."""
        if self.total_tokens is None:
            return self.thinking_budget
        left = self.total_tokens - min(self.answer_tokens, _ANSWER_RESERVE, max(1, self.total_tokens // 4))
        return left if self.thinking_budget is None else min(left, self.thinking_budget)

    def max_answer_tokens(self, thinking_tokens: int) -> int:
        """Most tokens of the answer after `thinking_tokens` of thinking."""
        if self.total_tokens is None:
            return self.answer_tokens
        return min(self.answer_tokens, self.total_tokens - thinking_tokens)
