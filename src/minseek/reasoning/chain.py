"""A growing sequence: all generated tokens, and those that are in the cache."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from minseek.decode import Sampler, TextStream, TokenLogprob, logprob, token_logprob
from minseek.models import Model, Session
from minseek.reasoning.events import Event, Thought
from minseek.reasoning.run_plan import RunPlan

_CONTEXT = 32  # tokens of the prompt, and twice as many of the chain: enough to decode the next ones


@dataclass(frozen=True)
class NeedLogits:
    """Request to feed tokens to the session; it is answered with the logits after the last of them."""

    tokens: Sequence[int]


T = TypeVar("T")
RunSteps = Generator[Event | NeedLogits, Tensor | None, T]
"""Events and `NeedLogits`; a `NeedLogits` is answered with logits, an event with None."""
PrefixTokens = list[tuple[int, TokenLogprob | None]]
"""Tokens that have been sampled and fed, with their log-probabilities if these are reported."""


class Chain:
    """The state of a run.

    Attributes
    ----------
    plan : RunPlan
        Bounds of the cache.
    thoughts : list of Thought
        All thoughts, dropped ones included.
    kept : list of Thought
        Induced thoughts in the cache, in its order.
    tokens : list of int
        Everything after the prompt, tags included.
    sampled_tag : list of int
        The close tag as the model wrote it, while its thought is the last one in the cache.
    text_after_tag : str
        Text that shares a token with the close tag.
    base : int
        Tokens of the prompt and the first thought.
    thinking_tokens : int
        Tokens of the thoughts that have ended, the removed rounds of loops included.
    interim_tokens : int
        Tokens of interim answers so far.
    peak : int
        Most tokens in the cache so far.
    over : bool
        True if the model has ended its turn without thinking.
    full : bool
        True if the strategy has ended thinking because what is kept leaves no space for another thought.
    ended_by : str
        Reason for the end of thinking; see `Stats`.
    """

    def __init__(self, model: Model, prompt: Sequence[int], session: Session, plan: RunPlan, sampler: Sampler) -> None:
        self._model, self._prompt, self._session, self._sampler = model, prompt, session, sampler
        self.plan = plan
        self.thoughts: list[Thought] = []
        self.kept: list[Thought] = []
        self.tokens: list[int] = []
        self.sampled_tag: list[int] = []
        self.text_after_tag = ""
        self.base = self.thinking_tokens = self.interim_tokens = self.peak = 0
        self.over = self.full = False
        self.ended_by = "thoughts"

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._session.length

    def prefill(self) -> RunSteps[None]:
        """Feed the prompt."""
        yield from self._feed(self._prompt)

    def feed(self, tokens: Sequence[int]) -> RunSteps[None]:
        """Append tokens to the cache and take the logits after them."""
        self._sampler.extend(tokens)
        yield from self._feed(tokens)

    def _feed(self, tokens: Sequence[int]) -> RunSteps[None]:
        logits = yield NeedLogits(tokens)
        assert logits is not None, "NeedLogits is answered with logits"
        self._logits = logits
        self.peak = max(self.peak, self.length)

    def pick(self, banned: Sequence[int] = ()) -> int:
        """Sample the next token; `banned` ones are never chosen."""
        return self._sampler.pick(self._logits, banned=banned)

    def logprob(self, token: int, count: int | None) -> TokenLogprob | None:
        """Log-probability of a token just sampled and of the `count` most likely ones; None if `count` is None."""
        return None if count is None else token_logprob(self._logits, token, count)

    def logprob_of(self, token: int) -> float:
        """Log-probability of a token just sampled."""
        return logprob(self._logits, token)

    def text_stream(self, before: int = 0) -> TextStream:
        """A stream of the text that follows the chain without its last `before` tokens."""
        chain = [*self._prompt[-_CONTEXT:], *self.tokens[-2 * _CONTEXT :]]
        return TextStream(self._model.decode, before=chain[: len(chain) - before])

    def drop(self, thought: Thought) -> None:
        """Remove an induced thought from the cache."""
        index = self.kept.index(thought)
        start = self.base + sum(earlier.length for earlier in self.kept[:index])
        self._drop(start, start + thought.length)
        if index == len(self.kept) - 1:
            self.sampled_tag = []
        del self.kept[index]
        thought.kept = False

    def cut(self, length: int) -> None:
        """Cut the cache back to its first `length` tokens."""
        self._drop(length, self.length)

    def _drop(self, start: int, stop: int) -> None:
        self._session.drop(start, stop)
        self._sampler.delete(start - len(self._prompt), stop - len(self._prompt))

    def fork(self) -> Chain:
        """A copy of the state that shares only the cache, which the caller cuts back afterwards."""
        forked = copy(self)
        forked.thoughts, forked.kept, forked.tokens = list(self.thoughts), list(self.kept), list(self.tokens)
        forked._sampler = self._sampler.fork()
        return forked
