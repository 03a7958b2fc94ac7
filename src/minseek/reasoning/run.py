"""The reasoning loop: thought after thought in one cache, then the answer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from minseek.cache import KeyStorage
from minseek.decode import Sampler, Sampling
from minseek.models import Model, Session
from minseek.models.chat.prompts import Question, as_messages, encode_prompt, render_messages, template_tail
from minseek.models.chat.thinking_format import is_open
from minseek.reasoning.answer import Answer, AnswerWriter
from minseek.reasoning.chain import Chain, NeedLogits, RunSteps
from minseek.reasoning.events import Event, Finished, InterimAnswer, Result, Stats
from minseek.reasoning.interim import AnswerAfter, Interim, silent
from minseek.reasoning.limits import Limits
from minseek.reasoning.plan import RunPlan
from minseek.reasoning.strategies import Strategy
from minseek.reasoning.thinking import Thinker, ended


class Run:
    """One question on its way to an answer.

    What can be refused is refused when it is made; `events` does the work, once.
    """

    def __init__(
        self,
        model: Model,
        question: Question,
        *,
        strategy: Strategy,
        sampling: Sampling,
        limits: Limits,
        induce: str | None = None,
        system: str | None = None,
        key_storage: KeyStorage = "re-rotated",
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        answer_after: AnswerAfter = None,
        slot_tokens: int | None = None,
    ) -> None:
        self.model, self.strategy, self.limits = model, strategy, limits
        messages = as_messages(question, system)
        if isinstance(strategy, type) or not hasattr(strategy, "decide"):
            raise TypeError(f"a strategy is MinSeek(), BudgetForcing() or Standard(), not {strategy!r}")
        form = self._form = model.thinking
        text = render_messages(model.tokenizer, messages)
        self._thinks = limits.most_thinking != 0
        self._opened = not form.open or is_open(template_tail(model.tokenizer, messages), form)
        if not self._opened and (strategy.thoughts != 0 or not self._thinks):
            # Whoever wants thoughts wants thinking: as s1 does, the tag is put there. Whoever wants no thinking gets it
            # closed at once, as by Qwen3's template: left to itself, the model might open it.
            text += form.open
            self._opened = True
        self.prompt = encode_prompt(model.tokenizer, text)
        self._answerer = AnswerWriter(model, limits, stop, logprobs)
        rated = getattr(strategy, "needs_logprob", False)
        self._thinker = Thinker(model, form.induce if induce is None else induce, limits, rated)
        closing = self._answerer.closing if self._thinks or form.open else []
        self.plan = RunPlan.make(model, len(self.prompt), len(closing), strategy, limits, key_storage, slot_tokens)
        self._interim = Interim(strategy, answer_after)
        self._key_storage = key_storage
        self._sampler = Sampler(sampling)
        self._chance = random.Random(sampling.seed)

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
            if isinstance(step, NeedLogits):
                logits = session.feed(step.tokens)
            else:
                yield step

    def steps(self, session: Session) -> RunSteps[None]:
        """The same run for whoever feeds the session: what is to be read next, answered by logits, among the events."""
        began = time.perf_counter()
        chain = Chain(self.model, self.prompt, session, self.plan, self._sampler)
        yield from chain.feed(self.prompt)
        prefill_seconds = time.perf_counter() - began
        answer = yield from self._respond(chain)
        sizes = session.stats()
        stats = Stats(
            prompt_tokens=len(self.prompt),
            thinking_tokens=chain.thinking_tokens,
            answer_tokens=len(answer.tokens),
            seconds=time.perf_counter() - began,
            prefill_seconds=prefill_seconds,
            kv_tokens=sizes.length,
            kv_tokens_peak=sizes.peak_length,
            kv_bytes=sizes.nbytes,
            kv_bytes_peak=sizes.peak_bytes,
            thoughts=max(0, len(chain.thoughts) - 1),
            ended_by=chain.ended_by,
            answer_ended_by=answer.ended_by,
            interim_tokens=self._interim.tokens,
        )
        yield Finished(Result(answer.text, chain.thoughts, stats, chain.tokens))

    def _respond(self, chain: Chain) -> RunSteps[Answer]:
        """Whatever follows the prompt."""
        if not self._thinks:
            chain.ended_by = "thinking-budget"
            return (yield from (self._answerer.close(chain) if self._form.open else self._answerer.answer(chain)))
        opening = ""
        if not self._opened:
            opened = yield from self._thinker.read_opening(chain, self._answerer.logprobs)
            if opened.text is None:
                return (yield from self._answerer.answer(chain, carried=opened.written))
            opening = opened.text
        return (yield from self._think(chain, opening))

    def _think(self, chain: Chain, opening: str) -> RunSteps[Answer]:
        """The first thought, and induced ones while the strategy wants them and the limits allow; then the answer."""
        first = yield from self._thinker.thought(chain, opening)
        chain.base = chain.length  # the prompt and the first thought: always kept
        yield ended(chain, first, "the first thought stays with the prompt")
        wanted, stable = self.strategy.thoughts, False
        while (wanted is None or len(chain.thoughts) <= wanted) and self._thinker.may_induce(chain):
            if self._interim.due(len(chain.thoughts) - 1):
                yield (yield from self._answer_now(chain))
                if stable := self._interim.stable:
                    chain.ended_by = "stable"
                    break
            new = yield from self._thinker.thought(chain)
            verdict = self.strategy.decide(chain.kept, new, self._chance)
            chain.kept.append(new)
            if verdict.dropped is not None:
                chain.drop(verdict.dropped)
            gone = verdict.dropped.index if verdict.dropped is not None and new.kept else None
            yield ended(chain, new, verdict.why, gone)
        if not self._interim.decide:
            return (yield from self._finish(chain))
        if not stable:
            yield (yield from self._answer_now(chain))
        answer = self._interim.chosen()
        self._interim.tokens -= len(answer.tokens)  # it is the answer's now
        return (yield from self._answerer.repeat(chain, answer))

    def _finish(self, chain: Chain) -> RunSteps[Answer]:
        """The answer after the last thought, told as it is written."""
        index = len(chain.thoughts) - 1
        answer = yield from self._conclude(chain, final=self.strategy.thoughts != 0)
        if self._interim.told:
            yield self._as_interim(index, chain, answer)
        return answer

    def _answer_now(self, chain: Chain) -> RunSteps[InterimAnswer]:
        """What the answer would be if no thought followed; the run goes on as if nobody had asked."""
        index, length, fork = len(chain.thoughts) - 1, chain.length, chain.fork()
        answer = yield from silent(self._conclude(fork, final=index != 0))
        chain.cut(length)
        self._interim.tokens += fork.thinking_tokens - chain.thinking_tokens + len(answer.tokens)
        self._interim.add(answer)
        return self._as_interim(index, fork, answer)

    def _conclude(self, chain: Chain, final: bool) -> RunSteps[Answer]:
        """A final thought, if it may be and the strategy wants it, and the answer."""
        if final and self.strategy.answer == "final-thought" and self._thinker.may_induce(chain, final=True):
            thought = yield from self._thinker.thought(chain)
            chain.kept.append(thought)
            yield ended(chain, thought, "the final thought closes by itself")
        return (yield from self._answerer.close(chain))

    def _as_interim(self, index: int, chain: Chain, answer: Answer) -> InterimAnswer:
        return InterimAnswer(
            index=index,
            answer=answer.text,
            tokens=answer.tokens,
            ended_by=answer.ended_by,
            kv_tokens_peak=chain.peak,
            kv_bytes=chain.peak * self.plan.token_bytes,
            thinking_tokens=chain.thinking_tokens,
        )
