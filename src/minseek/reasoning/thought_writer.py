"""Generation of one thought at a time, within the limits."""

from __future__ import annotations

from dataclasses import dataclass

from minseek.decode import LoopDetector, TagWatcher
from minseek.errors import InputError
from minseek.models import Model, ThinkingFormat
from minseek.reasoning.chain import Chain, PrefixTokens, RunSteps
from minseek.reasoning.events import Ending, Thought, ThoughtEnded, ThoughtStarted, ThoughtToken
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_plan import MIN_TOKENS

_OPENING = 32  # tokens within which a model that opens its thinking itself has done so


@dataclass(frozen=True)
class Opening:
    """The first tokens of a reply whose thinking the model may open itself.

    Attributes
    ----------
    text : str or None
        Text after the open tag; None if the model began to answer without it.
    prefix_tokens : list
        The tokens, already in the cache.
    """

    text: str | None
    prefix_tokens: PrefixTokens


class ThoughtWriter:
    """Generates thoughts at the end of a chain.

    Raises
    ------
    InputError
        If the inducing text has no tokens, or if thoughts have a minimum length and the close tag has several tokens.
    """

    def __init__(self, model: Model, options: RunOptions) -> None:
        self._model, self._form, self._limits = model, model.thinking, options.limits
        self._independent = options.strategy.independent
        self._needs_logprob, self._logprobs = options.strategy.needs_logprob, options.logprobs
        self._budget = options.limits.max_thinking_tokens
        self._next_answer = options.limits.answer_tokens if options.limits.answers_in_total else 0
        self._word = model.thinking.induce if options.induce is None else options.induce
        self._word_ids = model.encode_continuation(self._word)
        if not self._word_ids:
            raise InputError(f"the text that induces a thought must not be empty, and {self._word!r} has no tokens")
        self._closing_ids = _closing_ids(model, model.thinking) if options.limits.min_thought_tokens else []

    def read_opening(self, chain: Chain) -> RunSteps[Opening]:
        """Let the model open its thinking itself, or begin to answer."""
        stream, text, prefix = chain.text_stream(), "", PrefixTokens()
        while True:
            token = chain.pick()
            if token in self._model.eos_token_ids:
                chain.over = True
                return Opening(None, [])
            prefix.append((token, chain.logprob(token, self._logprobs)))
            text += stream.push(token)
            chain.tokens.append(token)
            yield from chain.feed([token])
            start = text.lstrip()
            if start.startswith(self._form.open):
                return Opening(start.removeprefix(self._form.open), prefix)
            undecided = self._form.open.startswith(start) and len(chain.tokens) < _OPENING
            if not undecided or not chain.plan.allows_thinking(chain.length):
                return Opening(None, prefix)

    def may_induce(self, chain: Chain, final: bool = False) -> bool:
        """True if the limits allow another thought; otherwise sets `Chain.ended_by`."""
        if chain.full:
            return False  # its last thought was cut off by the limit that `ended_by` names
        last, count = chain.thoughts[-1], len(self._word_ids)
        held = chain.base if self._independent else chain.length
        if not last.finished and last.ended_by != "loop" and (last.kept or last.ended_by == "thinking-budget"):
            return False  # a thought that filled the cache and was dropped has freed its tokens
        if chain.thinking_tokens >= self._limits.max_tokens and not final:
            chain.ended_by = "max-tokens"
        elif not self._has_budget(chain, count + self._next_answer):
            chain.ended_by = "thinking-budget"
        elif not chain.plan.allows_thinking(held + count + (0 if last.finished else MIN_TOKENS)):
            chain.ended_by = chain.plan.bound_by
        else:
            if not final:
                chain.ended_by = "thoughts"  # a limit that cut off the previous thought has not ended thinking
            return True
        return False

    def thought(self, chain: Chain, opening: str = "") -> RunSteps[Thought]:
        """Generate a thought until the model closes it, it repeats itself or a limit is met.

        A close tag is removed from the cache, and so are all rounds of a loop but the first: what follows the thought
        reads none of them, whether or not the strategy keeps it.
        """
        thought = Thought(len(chain.thoughts), text=opening)
        chain.thoughts.append(thought)
        start = chain.length
        watcher, stream = TagWatcher(self._form.close), chain.text_stream()
        yield ThoughtStarted(thought.index, self._word if thought.index else "")
        if thought.index:
            for token in self._word_ids:
                thought.tokens.append(token)
                yield _thought_token(chain, thought, token, watcher.push(stream.push(token)))
            yield from chain.feed(self._word_ids)
        logprobs: list[float] = []
        chain.sampled_tag = []
        loop = LoopDetector() if self._limits.loop_detection else None
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
                yield _thought_token(chain, thought, None, piece)
                ending = "closed"
                break
            thought.tokens.append(token)
            if self._needs_logprob:
                logprobs.append(chain.logprob_of(token))
            yield _thought_token(chain, thought, token, piece)
            if loop is not None and loop.push(token):
                ending = "loop"
                break
            yield from chain.feed([token])
            ending = self._limit(chain, thought)
        if not watcher.found:
            yield _thought_token(chain, thought, None, watcher.push(stream.flush()) + watcher.flush())
        chain.thinking_tokens += thought.length
        if loop is not None and ending == "loop":
            self._keep_first_round(chain, thought, loop.first_round, opening)
        chain.cut(start + thought.length)
        chain.tokens.extend(thought.tokens)
        thought.ended_by = ending
        del logprobs[thought.length - (len(self._word_ids) if thought.index else 0) :]  # the tag's
        thought.logprob = sum(logprobs) / len(logprobs) if logprobs else None
        if not thought.finished:
            chain.ended_by = ending
        return thought

    def _keep_first_round(self, chain: Chain, thought: Thought, count: int, opening: str) -> None:
        """Cut a thought down to the first `count` tokens that the model generated, and its text with them."""
        del thought.tokens[(len(self._word_ids) if thought.index else 0) + count :]
        stream = chain.text_stream()
        thought.text = opening + "".join(map(stream.push, thought.tokens)) + stream.flush()

    def _has_budget(self, chain: Chain, tokens: int) -> bool:
        """True if the budgets of tokens allow more after this many of an unfinished thought."""
        thinking, budget, limits = chain.thinking_tokens + tokens, self._budget, self._limits
        if budget is not None and limits.total_tokens is not None and limits.answers_in_total:
            budget = min(budget, limits.total_tokens - limits.answer_tokens - chain.interim_tokens)
        return budget is None or thinking < budget

    def _limit(self, chain: Chain, thought: Thought) -> Ending | None:
        """The limit that ends the thought now, if any."""
        limits = self._limits
        if limits.max_thought_tokens is not None and thought.length >= limits.max_thought_tokens:
            return "max-thought-tokens"
        if not self._has_budget(chain, thought.length):
            return "thinking-budget"
        return None if chain.plan.allows_thinking(chain.length) else chain.plan.bound_by


def _thought_token(chain: Chain, thought: Thought, token: int | None, text: str) -> ThoughtToken:
    thought.text += text
    return ThoughtToken(thought.index, token, text, chain.length)


def thought_ended(chain: Chain, thought: Thought, why: str, dropped: int | None = None) -> ThoughtEnded:
    """Event emitted after the strategy has kept or dropped a thought."""
    return ThoughtEnded(thought, thought.kept, why, dropped, chain.length)


def _closing_ids(model: Model, form: ThinkingFormat) -> list[int]:
    """Tokens that are banned until a thought has its minimum length.

    Raises
    ------
    InputError
        If the close tag has several tokens: banning one of them would change the thought's text.
    """
    tag = model.encode_continuation(form.close) if form.close else []
    if len(tag) > 1:
        raise InputError(
            f"min_thought_tokens needs a close tag of one token, and {form.close!r} has {len(tag)} in this model: "
            "leave it out"
        )
    return [*model.eos_token_ids, *tag]
