"""Options of a run, checked once and passed on whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from minseek.cache import KeyStorage
from minseek.decode import Sampling, check_logprobs, check_stop
from minseek.errors import InputError, check_type
from minseek.reasoning.limits import Limits
from minseek.reasoning.strategies import MinSeek
from minseek.reasoning.strategy import Strategy
from minseek.units import parse_bytes

AnswerAfter = Collection[int] | Literal["every"] | None
"""Numbers of induced thoughts (0: the first thought alone) after which an interim answer is wanted."""


@dataclass(frozen=True)
class RunOptions:
    """Everything that a run depends on besides the model and the question.

    Parameters
    ----------
    strategy, sampling, limits, induce, system, key_storage, stop, logprobs, answer_after
        See `minseek.stream`.
    memory : int, str or None
        Bytes that the whole process may take; None is the model's budget, if it has one.
    needs_answer : bool
        Do not let the model end its turn before the answer has a visible character.

    Raises
    ------
    InputError
        If a value is out of range.
    TypeError
        If a value has a wrong type.
    """

    strategy: Strategy = field(default_factory=MinSeek)
    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    induce: str | None = None
    system: str | None = None
    key_storage: KeyStorage = "re-rotated"
    stop: Sequence[str] = ()
    logprobs: int | None = None
    answer_after: AnswerAfter = None
    memory: int | str | None = None
    needs_answer: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, Strategy):
            raise TypeError(f"a strategy is MinSeek(), FreshThoughts() or another one, not {self.strategy!r}")
        check_type("sampling must be a Sampling", self.sampling, Sampling, ": give minseek.Sampling(…)")
        check_type("limits must be a Limits", self.limits, Limits, ": give minseek.Limits(…)")
        for name, text in (("induce", self.induce), ("system", self.system)):
            if text is not None:
                check_type(f"{name} must be a text", text, str)
        if self.memory is not None:
            parse_bytes(self.memory)
        check_stop(self.stop)
        check_logprobs(self.logprobs)
        _check_answer_after(self.answer_after)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Options by keyword; None stands for the default."""
        return cls(**{name: value for name, value in options.items() if value is not None})


def _check_answer_after(answer_after: AnswerAfter) -> None:
    if answer_after is None:
        return
    if isinstance(answer_after, str):
        if answer_after == "every":
            return
        raise InputError(f"answer_after must be 'every' or numbers of thoughts, not {answer_after!r}")
    if not isinstance(answer_after, Collection):
        raise TypeError(f"answer_after must be 'every' or numbers of thoughts, not {answer_after!r}")
    for number in answer_after:
        check_type("answer_after must hold integers", number, int)
        if number < 0:
            raise InputError(f"answer_after must hold numbers of 0 or more, not {number}")
