"""Thoughts, one at a time, within the limits."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.decode import TagWatcher, TokenLogprob
from minseek.errors import InputError
from minseek.models import Model, ThinkingFormat
from minseek.reasoning.chain import Chain, RunSteps
from minseek.reasoning.events import Ending, Thought, ThoughtEnded, ThoughtStarted, ThoughtToken
from minseek.reasoning.limits import Limits
from minseek.reasoning.plan import LEAST

_OPENING = 32  # tokens within which a model that opens its thinking itself has done so

Written = list[tuple[int, TokenLogprob | None]]
"""Tokens that have been chosen and read, and how likely they were if anybody asks."""


@dataclass(frozen=True)
class Opening:
    """What a model wrote first: text behind its open tag, or None if it wrote none and began to answer."""

    text: str | None
    written: Written


class Thinker:
    """Writes thoughts into a chain.

    Parameters
    ----------
    word : str
        The text that begins an induced thought.
    rated : bool
        Whether thoughts are told with how likely they were.

    Raises
    ------
    InputError
        If the word has no tokens, or if a least length is wanted and the close tag has several.
    """

    def __init__(self, model: Model, word: str, limits: Limits, rated: bool = False) -> None:
        self._rated = rated
        self._model, self._form, self._word, self._limits = model, model.thinking, word, limits
        self._budget = limits.most_thinking
        self._word_ids = model.encode(word)
        if not self._word_ids:
            raise InputError(f"the text that induces a thought must not be empty, and {word!r} has no tokens")
        self._closing_ids = _ids_that_close(model, model.thinking) if limits.min_thought_tokens else []

    def read_opening(self, chain: Chain, logprobs: int | None) -> RunSteps[Opening]:
        """Let the model open its thinking itself, if it does."""
        stream, text, written = chain.text_stream(), "", Written()
        while True:
            token = chain.pick()
            if token in self._model.eos_token_ids:
                chain.over = True
                return Opening(None, [])
            written.append((token, chain.logprob(token, logprobs)))
            text += stream.push(token)
            chain.tokens.append(token)
            yield from chain.feed([token])
            head = text.lstrip()
            if head.startswith(self._form.open):
                return Opening(head.removeprefix(self._form.open), written)
            undecided = self._form.open.startswith(head) and len(chain.tokens) < _OPENING
            if not undecided or not chain.plan.allows_thinking(chain.length):
                return Opening(None, written)

    def may_induce(self, chain: Chain, final: bool = False) -> bool:
        """Whether the limits allow another thought; if not, why thinking ended is noted."""
        last, count = chain.thoughts[-1], len(self._word_ids)
        if not last.finished and (last.kept or last.ended_by == "thinking-budget"):
            return False  # where the cache was full, and the thought has left it, there is room again
        if chain.thinking_tokens >= self._limits.max_tokens and not final:
            chain.ended_by = "max-tokens"
        elif self._budget is not None and chain.thinking_tokens + count >= self._budget:
            chain.ended_by = "thinking-budget"
        elif not chain.plan.allows_thinking(chain.length + count + (0 if last.finished else LEAST)):
            chain.ended_by = chain.plan.bound_by
        else:
            if not final:
                chain.ended_by = "thoughts"  # not by the thought before, which a limit may have cut off
            return True
        return False

    def thought(self, chain: Chain, opening: str = "") -> RunSteps[Thought]:
        """One thought, up to where the model wants to close it or a limit is met; no close tag stays in the cache."""
        thought = Thought(len(chain.thoughts), text=opening)
        chain.thoughts.append(thought)
        start = chain.length
        watcher, stream = TagWatcher(self._form.close), chain.text_stream()
        yield ThoughtStarted(thought.index, self._word if thought.index else "")
        if thought.index:
            for token in self._word_ids:
                thought.tokens.append(token)
                yield _told(chain, thought, token, watcher.push(stream.push(token)))
            yield from chain.feed(self._word_ids)
        likely: list[float] = []
        chain.sampled_tag = []
        ending = self._limit(chain, thought)
        while ending is None:
            early = thought.length < (self._limits.min_thought_tokens or 0)
            token = chain.pick(banned=self._closing_ids if early else ())
            if token in self._model.eos_token_ids:
                ending = "closed"
                break
            piece = watcher.push(stream.push(token))
            if watcher.found:
                before = watcher.pieces_before()
                chain.sampled_tag, chain.text_after_tag = [*thought.tokens[before:], token], watcher.rest
                del thought.tokens[before:]
                yield _told(chain, thought, None, piece)
                ending = "closed"
                break
            thought.tokens.append(token)
            if self._rated:
                likely.append(chain.logprob_of(token))
            yield _told(chain, thought, token, piece)
            yield from chain.feed([token])
            ending = self._limit(chain, thought)
        if not watcher.found:
            yield _told(chain, thought, None, watcher.push(stream.flush()) + watcher.flush())
        chain.cut(start + thought.length)
        chain.thinking_tokens += thought.length
        chain.tokens.extend(thought.tokens)
        thought.ended_by = ending
        likely = likely[: thought.length - (len(self._word_ids) if thought.index else 0)]  # less those of the tag
        thought.logprob = sum(likely) / len(likely) if likely else None
        if not thought.finished:
            chain.ended_by = ending
        return thought

    def _limit(self, chain: Chain, thought: Thought) -> Ending | None:
        """The limit that ends a thought now, if any does."""
        limits = self._limits
        if limits.max_thought_tokens is not None and thought.length >= limits.max_thought_tokens:
            return "max-thought-tokens"
        if self._budget is not None and chain.thinking_tokens + thought.length >= self._budget:
            return "thinking-budget"
        return None if chain.plan.allows_thinking(chain.length) else chain.plan.bound_by


def _told(chain: Chain, thought: Thought, token: int | None, text: str) -> ThoughtToken:
    thought.text += text
    return ThoughtToken(thought.index, token, text, chain.length)


def ended(chain: Chain, thought: Thought, why: str, dropped: int | None = None) -> ThoughtEnded:
    """What is told of a thought once it is settled whether it stays."""
    return ThoughtEnded(thought, thought.kept, why, dropped, chain.length)


def _ids_that_close(model: Model, form: ThinkingFormat) -> list[int]:
    """Tokens that a thought must not contain before its least length.

    Raises
    ------
    InputError
        If the close tag consists of several tokens: forbidding one of them would change the thought's text.
    """
    tag = model.encode(form.close) if form.close else []
    if len(tag) > 1:
        raise InputError(
            f"min_thought_tokens needs a close tag of one token, and {form.close!r} has {len(tag)} in this model: "
            "leave it out"
        )
    return [*model.eos_token_ids, *tag]
