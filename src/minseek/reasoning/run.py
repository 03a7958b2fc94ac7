"""The reasoning loop: thought after thought in one cache, then the answer."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from minseek.cache import KeyStorage
from minseek.decode import Sampler, Sampling, TagWatcher, TextStream
from minseek.errors import InputError
from minseek.models import Model, Session, ThinkingFormat
from minseek.models.formats import is_open
from minseek.models.prompts import encode_prompt, render_prompt, template_tail
from minseek.reasoning.events import (
    AnswerToken,
    Ending,
    Event,
    Finished,
    Result,
    Stats,
    Thought,
    ThoughtEnded,
    ThoughtStarted,
    ThoughtToken,
)
from minseek.reasoning.limits import Limits
from minseek.reasoning.plan import RunPlan
from minseek.reasoning.strategies import Strategy

_OPENING = 32  # tokens within which a model that opens its thinking itself has done so


@dataclass(frozen=True)
class Read:
    """Tokens that the session is to be fed; the logits that follow them are the answer."""

    tokens: Sequence[int]


T = TypeVar("T")
Steps = Generator[Event | Read, Tensor | None, T]


class Run:
    """One question on its way to an answer.

    What can be refused is refused when it is made; `events` does the work, once.
    """

    def __init__(
        self,
        model: Model,
        question: str,
        *,
        strategy: Strategy,
        sampling: Sampling,
        limits: Limits,
        induce: str | None = None,
        system: str | None = None,
        key_storage: KeyStorage = "re-rotated",
    ) -> None:
        self.model, self.strategy, self.limits = model, strategy, limits
        if not isinstance(question, str):
            raise TypeError(f"a question is a string, not {type(question).__name__}")
        if isinstance(strategy, type) or not hasattr(strategy, "settle"):
            raise TypeError(f"a strategy is MinSeek(), BudgetForcing() or Standard(), not {strategy!r}")
        form = self.form = model.thinking
        text = render_prompt(model.tokenizer, question, system)
        self._opened = not form.open or is_open(template_tail(model.tokenizer, system), form)
        if not self._opened and strategy.thoughts != 0:
            text += form.open  # whoever wants thoughts wants thinking: as s1 does, the tag is put there
            self._opened = True
        self.prompt = encode_prompt(model.tokenizer, text)
        self._closing = model.encode(form.closing)
        self._word = form.induce if induce is None else induce
        self._word_ids = model.encode(self._word)
        if not self._word_ids:
            raise InputError(f"the text that induces a thought must not be empty, and {self._word!r} has no tokens")
        self._closing_ids = _ids_that_close(model, form) if limits.min_thought_tokens else []
        self.plan = RunPlan.make(model, len(self.prompt), len(self._closing), strategy, limits, key_storage)
        self._key_storage = key_storage
        self._sampler = Sampler(sampling)
        self._chance = random.Random(sampling.seed)
        self.thoughts: list[Thought] = []
        self.kept: list[Thought] = []  # induced ones in the cache, in its order
        self.tokens: list[int] = []
        self._sampled_tag: list[int] = []  # the close tag as the model wrote it, while its thought is the last one
        self._behind_tag = ""  # text that shared a token with it
        self._base = 0  # tokens of the prompt and the first thought
        self._thinking_tokens = 0  # of the thoughts that have ended
        self._over = False
        self._ended_by = "thoughts"

    def events(self) -> Iterator[Event]:
        """Run, telling what happens; the last event is `Finished`."""
        session = self.model.session(key_storage=self._key_storage, max_tokens=self.plan.allocate)
        steps, logits = self.steps(session), None
        while True:
            try:
                step = steps.send(logits)
            except StopIteration:
                return
            logits = None
            if isinstance(step, Read):
                logits = session.feed(step.tokens)
            else:
                yield step

    def steps(self, session: Session) -> Steps[None]:
        """The same run for whoever feeds the session: what is to be read next, answered by logits, among the events."""
        began = time.perf_counter()
        self._session = session
        yield from self._feed(self.prompt)
        prefill_seconds = time.perf_counter() - began
        thinks, opening = (True, "") if self._opened else (yield from self._read_opening())
        if thinks:
            yield from self._think(opening)
            yield from self._close()
        answer, answer_tokens, answer_ended_by = yield from self._answer(carried=[] if thinks else self.tokens)
        sizes = self._session.stats()
        stats = Stats(
            prompt_tokens=len(self.prompt),
            thinking_tokens=self._thinking_tokens,
            answer_tokens=answer_tokens,
            seconds=time.perf_counter() - began,
            prefill_seconds=prefill_seconds,
            kv_tokens=sizes.length,
            kv_tokens_peak=sizes.peak_length,
            kv_bytes=sizes.nbytes,
            kv_bytes_peak=sizes.peak_bytes,
            thoughts=max(0, len(self.thoughts) - 1),
            ended_by=self._ended_by,
            answer_ended_by=answer_ended_by,
        )
        yield Finished(Result(answer, self.thoughts, stats, self.tokens))

    def _read_opening(self) -> Steps[tuple[bool, str]]:
        """Let the model open its thinking itself: whether it does, and the text behind the tag."""
        stream, text = self._text_stream(), ""
        while True:
            token = self._sampler.pick(self._logits)
            if token in self.model.end_ids:
                self._over = True
                return False, ""
            text += stream.push(token)
            self.tokens.append(token)
            yield from self._feed([token])
            head = text.lstrip()
            if head.startswith(self.form.open):
                return True, head.removeprefix(self.form.open)
            undecided = self.form.open.startswith(head) and len(self.tokens) < _OPENING
            if not undecided or not self.plan.allows_thinking(self._session.length):
                return False, ""

    def _think(self, opening: str) -> Steps[None]:
        """The first thought, and induced ones while the strategy wants them and the limits allow."""
        first = yield from self._thought(0, opening)
        self._base = self._session.length  # the prompt and the first thought: always kept
        yield self._ended(first, "the first thought stays with the prompt")
        wanted = self.strategy.thoughts
        while (wanted is None or len(self.thoughts) <= wanted) and self._may_induce():
            new = yield from self._thought(len(self.thoughts))
            verdict = self.strategy.settle(self.kept, new, self._chance)
            self.kept.append(new)
            if verdict.dropped is not None:
                self._drop(verdict.dropped)
            gone = verdict.dropped.index if verdict.dropped is not None and new.kept else None
            yield self._ended(new, verdict.why, gone)
        if self.strategy.answer == "final-thought" and wanted != 0 and self._may_induce(final=True):
            final = yield from self._thought(len(self.thoughts))
            self.kept.append(final)
            yield self._ended(final, "the final thought closes by itself")
        if not self.thoughts[-1].finished:
            self._ended_by = self.thoughts[-1].ended_by

    def _may_induce(self, final: bool = False) -> bool:
        """Whether the limits allow another thought; if not, why thinking ended is noted."""
        last, count = self.thoughts[-1], len(self._word_ids)
        budget = self.limits.thinking_budget
        if not last.finished:
            return False
        if self._thinking_tokens >= self.limits.max_tokens and not final:
            self._ended_by = "max-tokens"
        elif budget is not None and self._thinking_tokens + count >= budget:
            self._ended_by = "thinking-budget"
        elif not self.plan.allows_thinking(self._session.length + count):
            self._ended_by = self.plan.bound_by
        else:
            return True
        return False

    def _thought(self, index: int, opening: str = "") -> Steps[Thought]:
        """One thought, up to where the model wants to close it or a limit is met; no close tag stays in the cache."""
        thought = Thought(index, text=opening)
        self.thoughts.append(thought)
        start = self._session.length
        watcher, stream = TagWatcher(self.form.close), self._text_stream()
        yield ThoughtStarted(index, self._word if index else "")
        if index:
            for token in self._word_ids:
                thought.tokens.append(token)
                yield self._told(thought, token, watcher.push(stream.push(token)))
            yield from self._feed(self._word_ids)
        self._sampled_tag = []
        ending = self._limit(thought)
        while ending is None:
            early = thought.length < (self.limits.min_thought_tokens or 0)
            token = self._sampler.pick(self._logits, banned=self._closing_ids if early else ())
            if token in self.model.end_ids:
                ending = "closed"
                break
            piece = watcher.push(stream.push(token))
            if watcher.found:
                before = watcher.pieces_before()
                self._sampled_tag, self._behind_tag = [*thought.tokens[before:], token], watcher.rest
                del thought.tokens[before:]
                yield self._told(thought, None, piece)
                ending = "closed"
                break
            thought.tokens.append(token)
            yield self._told(thought, token, piece)
            yield from self._feed([token])
            ending = self._limit(thought)
        if not watcher.found:
            yield self._told(thought, None, watcher.push(stream.flush()) + watcher.flush())
        self._session.drop(start + thought.length, self._session.length)
        self._thinking_tokens += thought.length
        self.tokens.extend(thought.tokens)
        thought.ended_by = ending
        return thought

    def _limit(self, thought: Thought) -> Ending | None:
        """The limit that ends a thought now, if any does."""
        limits = self.limits
        if limits.max_thought_tokens is not None and thought.length >= limits.max_thought_tokens:
            return "max-thought-tokens"
        if limits.thinking_budget is not None and self._thinking_tokens + thought.length >= limits.thinking_budget:
            return "thinking-budget"
        return None if self.plan.allows_thinking(self._session.length) else self.plan.bound_by

    def _drop(self, thought: Thought) -> None:
        """Take an induced thought out of the cache."""
        at = self.kept.index(thought)
        start = self._base + sum(t.length for t in self.kept[:at])
        self._session.drop(start, start + thought.length)
        if at == len(self.kept) - 1:
            self._sampled_tag = []
        del self.kept[at]
        thought.kept = False

    def _close(self) -> Steps[None]:
        """Close thinking: with the tag as the model wrote it behind the last thought, else with the format's."""
        closing = self._sampled_tag or self._closing
        self.tokens.extend(closing)
        yield from self._feed(closing)

    def _answer(self, carried: list[int]) -> Steps[tuple[str, int, str]]:
        """The answer's text, tokens and why it ended; `carried` tokens of it have been read already."""
        stream = self._text_stream(before=len(carried))
        parts = [self._behind_tag if self._sampled_tag else ""]
        if parts[0]:
            yield AnswerToken(None, parts[0], self._session.length)
        count = 0
        for token in carried[: self.limits.answer_tokens]:
            parts.append(stream.push(token))
            count += 1
            yield AnswerToken(token, parts[-1], self._session.length)
        ended_by = "end"
        while not self._over:
            if count >= self.limits.answer_tokens:
                ended_by = "answer-tokens"
                break
            if not self.plan.allows(self._session.length):
                ended_by = self.plan.bound_by
                break
            token = self._sampler.pick(self._logits)
            if token in self.model.end_ids:
                break
            self.tokens.append(token)
            parts.append(stream.push(token))
            count += 1
            yield AnswerToken(token, parts[-1], self._session.length)
            if count < self.limits.answer_tokens:
                yield from self._feed([token])
        parts.append(stream.flush())
        if parts[-1]:
            yield AnswerToken(None, parts[-1], self._session.length)
        return "".join(parts).strip(), count, ended_by

    def _feed(self, tokens: Sequence[int]) -> Steps[None]:
        logits = yield Read(tokens)
        assert logits is not None, "whoever runs the steps answers with logits"
        self._logits = logits

    def _text_stream(self, before: int = 0) -> TextStream:
        """A stream of the text that follows what stands in the chain, less its last `before` tokens."""
        chain = [*self.prompt[-_OPENING:], *self.tokens[-2 * _OPENING :]]
        return TextStream(self.model.decode, before=chain[: len(chain) - before])

    def _told(self, thought: Thought, token: int | None, text: str) -> ThoughtToken:
        thought.text += text
        return ThoughtToken(thought.index, token, text, self._session.length)

    def _ended(self, thought: Thought, why: str, dropped: int | None = None) -> ThoughtEnded:
        return ThoughtEnded(thought, thought.kept, why, dropped, self._session.length)


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
    return [*model.end_ids, *tag]
