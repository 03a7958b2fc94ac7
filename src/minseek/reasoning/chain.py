"""A sequence as it grows: what has been written, and what of it stands in the cache."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from minseek.decode import Sampler, TextStream, TokenLogprob, logprob, token_logprob
from minseek.models import Model, Session
from minseek.reasoning.events import Event, Thought
from minseek.reasoning.plan import RunPlan

_CONTEXT = 32  # tokens of the prompt, and twice as many of what follows: enough to decode what comes next


@dataclass(frozen=True)
class NeedLogits:
    """Tokens that the session is to be fed; the logits that follow them are the answer."""

    tokens: Sequence[int]


T = TypeVar("T")
RunSteps = Generator[Event | NeedLogits, Tensor | None, T]
"""Events, and among them `Read`, which is answered by logits."""


class Chain:
    """The state of a run.

    Attributes
    ----------
    plan : RunPlan
        How far the cache may be filled.
    thoughts : list of Thought
        All of them, dropped ones too.
    kept : list of Thought
        Induced ones in the cache, in its order.
    tokens : list of int
        Everything after the prompt, tags included.
    sampled_tag : list of int
        The close tag as the model wrote it, while its thought is the last one in the cache.
    text_after_tag : str
        Text that shared a token with it.
    base : int
        Tokens of the prompt and the first thought.
    thinking_tokens : int
        Of the thoughts that have ended.
    peak : int
        Tokens in the cache at most.
    over : bool
        The model has ended its turn without having thought.
    ended_by : str
        Why thinking ended; see `Stats`.
    """

    def __init__(self, model: Model, prompt: Sequence[int], session: Session, plan: RunPlan, sampler: Sampler) -> None:
        self._model, self._prompt, self._session, self._sampler = model, prompt, session, sampler
        self.plan = plan
        self.thoughts: list[Thought] = []
        self.kept: list[Thought] = []
        self.tokens: list[int] = []
        self.sampled_tag: list[int] = []
        self.text_after_tag = ""
        self.base = self.thinking_tokens = self.peak = 0
        self.over = False
        self.ended_by = "thoughts"

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._session.length

    def feed(self, tokens: Sequence[int]) -> RunSteps[None]:
        """Have tokens read."""
        logits = yield NeedLogits(tokens)
        assert logits is not None, "whoever runs the steps answers with logits"
        self._logits = logits
        self.peak = max(self.peak, self.length)

    def pick(self, banned: Sequence[int] = ()) -> int:
        """Choose the next token; `banned` ones are never chosen."""
        return self._sampler.pick(self._logits, banned=banned)

    def logprob(self, token: int, count: int | None) -> TokenLogprob | None:
        """How likely a token was that has just been chosen, if anybody asks."""
        return None if count is None else token_logprob(self._logits, token, count)

    def logprob_of(self, token: int) -> float:
        """The same as a plain number."""
        return logprob(self._logits, token)

    def text_stream(self, before: int = 0) -> TextStream:
        """A stream of the text that follows what stands in the chain, less its last `before` tokens."""
        chain = [*self._prompt[-_CONTEXT:], *self.tokens[-2 * _CONTEXT :]]
        return TextStream(self._model.decode, before=chain[: len(chain) - before])

    def drop(self, thought: Thought) -> None:
        """Take an induced thought out of the cache."""
        at = self.kept.index(thought)
        start = self.base + sum(t.length for t in self.kept[:at])
        self._session.drop(start, start + thought.length)
        if at == len(self.kept) - 1:
            self.sampled_tag = []
        del self.kept[at]
        thought.kept = False

    def cut(self, length: int) -> None:
        """Forget what stands behind the first `length` tokens of the cache."""
        self._session.drop(length, self._session.length)

    def fork(self) -> Chain:
        """The same state, to go on from apart; only the cache is shared, which whoever forks cuts back afterwards."""
        other = copy(self)
        other.thoughts, other.kept, other.tokens = list(self.thoughts), list(self.kept), list(self.tokens)
        other._sampler = self._sampler.fork()
        return other
