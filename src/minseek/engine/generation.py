"""Jobs of the engine: a job names the tokens to feed next and receives the logits that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from minseek.cache import KVCache, Slot
from minseek.decode import (
    Sampler,
    Sampling,
    TagWatcher,
    TextStream,
    TokenLogprob,
    check_logprobs,
    check_stop,
    decode_after,
    decode_context,
    token_logprob,
)
from minseek.models import Model
from minseek.units import format_beginning, format_count


class Job(Protocol):
    """One sequence to run in a slot.

    Attributes
    ----------
    evicts : bool
        True if the plan's policy may evict pairs from the slot; any other job must end before its slot is full.
    cache : KVCache
        Storage of its pairs once `start` has returned: the slot, or another cache over the slot's memory.
    """

    evicts: bool

    @property
    def cache(self) -> KVCache: ...  # a property, since a job may promise a particular kind

    def start(self, slot: Slot) -> Sequence[int]:
        """Begin in an empty slot; return the tokens to feed first."""

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """Return the tokens to feed next, given the logits [vocabulary] after the last ones; none ends the job."""


@dataclass(frozen=True)
class CompletionStats:
    """Figures of one completion.

    Attributes
    ----------
    prompt_tokens, new_tokens : int
        Tokens of the prompt, and generated ones.
    evictions : int
        Times that the slot was evicted down to its cap.
    reencodings : int
        Times that positions were made contiguous because the sequence reached the end of the model's context.
    """

    prompt_tokens: int
    new_tokens: int
    evictions: int
    reencodings: int


@dataclass(frozen=True)
class Completion:
    """Generated text of one prompt, as returned by `minseek.generate`.

    Attributes
    ----------
    text : str
        The new text, without the token or the stop string that ended it.
    tokens : list of int
        The new tokens, without the eos token.
    finish_reason : str
        "stop" (an eos token or a stop string) or "length".
    stats : CompletionStats
        Token counts and evictions.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stats: CompletionStats

    def __repr__(self) -> str:
        count = format_count(len(self.tokens), "token")
        return f"Completion({format_beginning(self.text)}, {count}, {self.finish_reason})"


OnToken = Callable[[int | None, str, TokenLogprob | None], None]
"""Receives a new token, the text that became certain with it (perhaps empty), and its log-probability if requested.

The last text may come without a token. No part of a stop string is ever passed."""


class Generation:
    """Plain generation from a prompt.

    Parameters
    ----------
    model : Model
    prompt : sequence of int
        Tokens, at least one.
    max_new_tokens : int
        Maximum number of tokens to generate.
    sampling : Sampling
    stop : sequence of str
        Texts that end the generation.
    evicts : bool
        Allow the plan's policy to evict pairs from the slot.
    ignore_eos : bool
        Go on after an eos token.
    on_token : callable, optional
        Called with each token, in the engine's thread.
    logprobs : int, optional
        Pass each token's log-probability to `on_token`, with those of that many most likely tokens, 0 to 20.
    is_continuation : bool
        Continue the prompt's text, including the space between both, rather than answer it.

    Raises
    ------
    TypeError, InputError
        If `stop` or `logprobs` is wrong, or `sampling` has a bias on a token outside the vocabulary.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str] = (),
        evicts: bool = True,
        ignore_eos: bool = False,
        on_token: OnToken | None = None,
        logprobs: int | None = None,
        is_continuation: bool = False,
    ) -> None:
        self._model, self.prompt, self.evicts = model, prompt, evicts
        self._limit, self._on_token, self._logprobs = max_new_tokens, on_token, check_logprobs(logprobs)
        self._watcher = TagWatcher(*check_stop(stop))
        self._before = decode_context(model.decode, prompt) if is_continuation else []
        self._stream = TextStream(model.decode, self._before) if stop or on_token else None
        model.check_token_ids(tuple(sampling.logit_bias or ()), " of logit_bias")
        self._sampler = Sampler(sampling, prompt)
        self._ends = frozenset() if ignore_eos else model.eos_token_ids
        self.tokens: list[int] = []
        self.finish_reason = "length"
        self._parts: list[str] = []  # of the text, if it is decoded while it is generated

    def start(self, slot: Slot) -> Sequence[int]:
        """Return the prompt."""
        self.cache: Slot = slot
        self._figures = (0, 0)
        return self.prompt

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """Return the next token, or none at the end."""
        self._figures = self.cache.evictions, self.cache.reencodings  # another job may soon have the slot
        token = self._sampler.pick(logits)
        if token in self._ends:
            self.finish_reason = "stop"
            self._flush()
            return ()
        self.tokens.append(token)
        self._sampler.extend((token,))
        if self._stream is not None:
            piece = self._stream.push(token)
            logprob = None if self._logprobs is None else token_logprob(logits, token, self._logprobs, piece)
            self._emit(token, self._watcher.push(piece), logprob)
        if not self._watcher.found and len(self.tokens) < self._limit:
            return (token,)
        self._flush()
        return ()

    def _flush(self) -> None:
        """Emit the text held back, unless it is a stop string."""
        if self._stream is not None and not self._watcher.found:
            self._emit(None, self._watcher.push(self._stream.flush()) + self._watcher.flush(), None)
        if self._watcher.found:
            self.finish_reason = "stop"

    def _emit(self, token: int | None, text: str, logprob: TokenLogprob | None) -> None:
        self._parts.append(text)
        if self._on_token is not None and (text or token is not None):
            self._on_token(token, text, logprob)

    def completion(self) -> Completion:
        """Return the generated text and its statistics."""
        text = "".join(self._parts)
        if self._stream is None:
            text = decode_after(self._model.decode, self._before, self.tokens)
        stats = CompletionStats(len(self.prompt), len(self.tokens), *self._figures)
        return Completion(text, self.tokens, self.finish_reason, stats)
