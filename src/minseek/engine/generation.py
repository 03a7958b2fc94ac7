"""What the engine runs: a job says what is fed next, and is told the logits that follow."""

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
    decode_behind,
    text_end,
    token_logprob,
)
from minseek.models import Model


class Job(Protocol):
    """One sequence's course through a slot.

    Attributes
    ----------
    evicts : bool
        Whether the slot's policy may take pairs from it; a job that may not ends by itself before its slot is full.
    cache : KVCache
        From `begin` on, where its pairs go: the slot, or a cache of another kind over the slot's memory.
    """

    evicts: bool

    @property
    def cache(self) -> KVCache: ...  # a property, since a job may promise a particular kind

    def begin(self, slot: Slot) -> Sequence[int]:
        """Take an empty slot; tokens to feed first."""

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """Tokens to feed next, having fed the last ones; none ends the job. logits: [vocabulary]."""


@dataclass(frozen=True)
class CompletionStats:
    """Figures of one completion.

    Attributes
    ----------
    prompt_tokens, new_tokens : int
        What was read and written.
    evictions : int
        How often the slot was brought back to its cap.
    reencodings : int
        How often positions were made contiguous because the sequence reached the end of the model's context.
    """

    prompt_tokens: int
    new_tokens: int
    evictions: int
    reencodings: int


@dataclass(frozen=True)
class Completion:
    """What `minseek.generate` returns for each prompt.

    Attributes
    ----------
    text : str
        The new text, without the token or the stop string that ended it.
    tokens : list of int
        The new tokens, without one that ends the turn.
    finish_reason : str
        "stop" (the model ended its turn, or a stop string came) or "length".
    stats : CompletionStats
        Figures.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    stats: CompletionStats


Told = Callable[[int | None, str, TokenLogprob | None], None]
"""Is told a new token, the text that became certain with it (perhaps none), and how likely it was if that was asked.

The last text may come without a token. Nothing of a stop string is ever told."""


class Generation:
    """Plain generation from a prompt.

    Parameters
    ----------
    model : Model
    prompt : sequence of int
        Tokens, at least one.
    max_new_tokens : int
        Tokens to write at most.
    sampling : Sampling
    stop : sequence of str
        Texts that end it.
    evicts : bool
        Whether the plan's policy may take pairs from the slot.
    ignore_eos : bool
        Go on when the model ends its turn.
    told : callable, optional
        What is called with each token, in the engine's thread.
    logprobs : int, optional
        Tell with each token how likely it was, and that many most likely ones, 0 to 20.
    continues : bool
        The text goes on where the prompt's ends, with the space between them, rather than answering it.

    Raises
    ------
    TypeError, InputError
        If `stop` or `logprobs` is wrong.
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
        told: Told | None = None,
        logprobs: int | None = None,
        is_continuation: bool = False,
    ) -> None:
        self._model, self.prompt, self.evicts = model, prompt, evicts
        self._limit, self._told, self._logprobs = max_new_tokens, told, check_logprobs(logprobs)
        self._watcher = TagWatcher(*check_stop(stop))
        self._before = text_end(model.decode, prompt) if is_continuation else []
        self._stream = TextStream(model.decode, self._before) if stop or told else None
        self._sampler = Sampler(sampling)
        self._ends = frozenset() if ignore_eos else model.eos_token_ids
        self.tokens: list[int] = []
        self.finish_reason = "length"
        self._parts: list[str] = []  # of the text, where it is followed as it is written

    def begin(self, slot: Slot) -> Sequence[int]:
        """The prompt."""
        self.cache: Slot = slot
        self._figures = (0, 0)
        return self.prompt

    def next_tokens(self, logits: Tensor) -> Sequence[int]:
        """The next token."""
        self._figures = self.cache.evictions, self.cache.reencodings  # the slot may soon be another's
        token = self._sampler.pick(logits)
        if token in self._ends:
            self.finish_reason = "stop"
            self._flush()
            return ()
        self.tokens.append(token)
        if self._stream is not None:
            logprob = None if self._logprobs is None else token_logprob(logits, token, self._logprobs)
            self._tell(token, self._watcher.push(self._stream.push(token)), logprob)
        if not self._watcher.found and len(self.tokens) < self._limit:
            return (token,)
        self._flush()
        return ()

    def _flush(self) -> None:
        """Tell what was held back, unless it is a stop string."""
        if self._stream is not None and not self._watcher.found:
            self._tell(None, self._watcher.push(self._stream.flush()) + self._watcher.flush(), None)
        if self._watcher.found:
            self.finish_reason = "stop"

    def _tell(self, token: int | None, text: str, logprob: TokenLogprob | None) -> None:
        self._parts.append(text)
        if self._told is not None and (text or token is not None):
            self._told(token, text, logprob)

    def completion(self) -> Completion:
        """What came of it."""
        text = "".join(self._parts)
        if self._stream is None:
            text = decode_behind(self._model.decode, self._before, self.tokens)
        stats = CompletionStats(len(self.prompt), len(self.tokens), *self._figures)
        return Completion(text, self.tokens, self.finish_reason, stats)
