"""The reasoning loop: thought after thought in one cache, then the answer."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from minseek.decode import Sampler
from minseek.models import Model, Session
from minseek.models.chat.encoding import encode_rendered
from minseek.models.chat.prompts import Question, as_messages, render_messages, template_tail
from minseek.models.chat.thinking_format import is_open
from minseek.reasoning.answer import Answer, AnswerWriter
from minseek.reasoning.chain import Chain, NeedLogits, RunSteps
from minseek.reasoning.events import Event, Finished, InterimAnswer, Result, Stats, ThoughtEnded
from minseek.reasoning.interim import InterimAnswers, silent
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_plan import RunPlan
from minseek.reasoning.thought_writer import ThoughtWriter, thought_ended


class Run:
    """One question on its way to an answer.

    The constructor refuses what can be refused; `events` does the work, once.

    Parameters
    ----------
    slot_tokens : int, optional
        Tokens of the slot that the run gets, if it gets one.

    Raises
    ------
    InputError
        If the question is empty, is not a conversation, or does not fit.
    """

    def __init__(
        self, model: Model, question: Question, options: RunOptions, *, slot_tokens: int | None = None
    ) -> None:
        self.model, self.options, self._strategy = model, options, options.strategy
        messages = as_messages(question, options.system)
        form = self._form = model.thinking
        text = render_messages(model.tokenizer, messages)
        self._thinks = options.limits.max_thinking_tokens != 0
        self._opened = not form.open or is_open(template_tail(model.tokenizer, messages), form)
        if not self._opened and (self._strategy.thoughts != 0 or not self._thinks):
            # With induced thoughts, thinking is opened for the model, as s1 does. Without thinking it is opened and
            # closed at once, as Qwen3's template does: left to itself, the model might open it.
            text += form.open
            self._opened = True
        self.prompt = encode_rendered(model.tokenizer, text)
        self._answers = AnswerWriter(model, options)
        self._thoughts = ThoughtWriter(model, options)
        closing = self._answers.closing if self._thinks or form.open else []
        self.plan = RunPlan.make(model, len(self.prompt), len(closing), options, slot_tokens)
        self._interim = InterimAnswers(self._strategy, options.answer_after)
        model.check_token_ids(tuple(options.sampling.logit_bias or ()), " of logit_bias")
        self._sampler = Sampler(options.sampling, self.prompt)
        self._rng = random.Random(options.sampling.seed)

    def events(self) -> Iterator[Event]:
        """Run, yielding events; the last one is `Finished`."""
        session = self.model.session(key_storage=self.options.key_storage, max_tokens=self.plan.preallocated)
        steps, logits = self.steps(session), None
        while True:
            try:
                step = steps.send(logits)
            except StopIteration:
                return
            logits = None
            if isinstance(step, NeedLogits):
                logits = session.forward(step.tokens)
            else:
                yield step

    def steps(self, session: Session) -> RunSteps[None]:
        """Run as a coroutine: the caller feeds the session and sends back the logits, events come in between."""
        began = time.perf_counter()
        chain = Chain(self.model, self.prompt, session, self.plan, self._sampler)
        yield from chain.prefill()
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
            kv_bytes_allocated=sizes.allocated_bytes,
            thoughts=max(0, len(chain.thoughts) - 1),
            ended_by=chain.ended_by,
            answer_ended_by=answer.ended_by,
            interim_tokens=self._interim.tokens,
        )
        yield Finished(Result(answer.text, chain.thoughts, stats, chain.tokens))

    def _respond(self, chain: Chain) -> RunSteps[Answer]:
        """Generate everything after the prompt."""
        if not self._thinks:
            chain.ended_by = "thinking-budget"
            return (yield from (self._answers.close(chain) if self._form.open else self._answers.answer(chain)))
        opening = ""
        if not self._opened:
            opened = yield from self._thoughts.read_opening(chain)
            if opened.text is None:
                return (yield from self._answers.answer(chain, prefix_tokens=opened.prefix_tokens))
            opening = opened.text
        return (yield from self._think(chain, opening))

    def _think(self, chain: Chain, opening: str) -> RunSteps[Answer]:
        """The first thought, induced ones while the strategy wants them and the limits allow, and the answer."""
        first = yield from self._thoughts.thought(chain, opening)
        chain.base = chain.length  # prompt and first thought always stay
        yield thought_ended(chain, first, "the first thought stays with the prompt")
        wanted, ended_early = self._strategy.thoughts, False
        while (wanted is None or len(chain.thoughts) <= wanted) and self._thoughts.may_induce(chain):
            if self._has_answer(chain) and self._interim.due(len(chain.thoughts) - 1):
                yield (yield from self._answer_now(chain))
                if ended_early := self._ends_early(chain):
                    break
            yield (yield from self._induce(chain))
        if not self._interim.decides:
            return (yield from self._finish(chain))
        if not ended_early and self._has_answer(chain):
            yield (yield from self._answer_now(chain))
        answer = self._interim.chosen()
        self._interim.tokens -= len(answer.tokens)  # these are the final answer's
        return (yield from self._answers.repeat(chain, answer))

    def _induce(self, chain: Chain) -> RunSteps[ThoughtEnded]:
        """Another thought, after the strategy has kept or dropped it."""
        released = chain.kept[0] if chain.kept and self._strategy.independent else None
        if released is not None:
            chain.drop(released)
        new = yield from self._thoughts.thought(chain)
        decision = self._strategy.decide(chain.kept, new, self._rng)
        chain.kept.append(new)
        chain.full = decision.ends
        if decision.dropped is not None:
            chain.drop(decision.dropped)
        replaced = decision.dropped if new.kept and decision.dropped is not None else released
        return thought_ended(chain, new, decision.why, None if replaced is None else replaced.index)

    def _has_answer(self, chain: Chain) -> bool:
        """True unless an independent thought was cut off: what was thought before it has been answered already."""
        return not self._strategy.independent or chain.thoughts[-1].kept

    def _ends_early(self, chain: Chain) -> bool:
        """True if the answers so far end thinking; sets `Chain.ended_by`."""
        wanted = self._strategy.thoughts
        if self._interim.stable:
            chain.ended_by = "stable"
        elif self._strategy.independent and self._interim.decided(
            None if wanted is None else wanted - len(chain.thoughts) + 1
        ):
            chain.ended_by = "decided"
        else:
            return False
        return True

    def _finish(self, chain: Chain) -> RunSteps[Answer]:
        """The answer after the last thought."""
        index = len(chain.thoughts) - 1
        answer = yield from self._conclude(chain, final=self._strategy.thoughts != 0)
        if self._interim.reports_interim:
            yield self._as_interim(index, chain, answer)
        return answer

    def _answer_now(self, chain: Chain) -> RunSteps[InterimAnswer]:
        """The answer if no thought followed, written in a fork of the chain that is then discarded."""
        index, length, fork = len(chain.thoughts) - 1, chain.length, chain.fork()
        answer = yield from silent(self._conclude(fork, final=index != 0))
        chain.cut(length)
        self._interim.tokens += fork.thinking_tokens - chain.thinking_tokens + len(answer.tokens)
        chain.interim_tokens = self._interim.tokens
        self._interim.add(answer)
        return self._as_interim(index, fork, answer)

    def _conclude(self, chain: Chain, final: bool) -> RunSteps[Answer]:
        """The answer, after a final thought if `final` allows it, the strategy wants it and it fits."""
        if final and self._strategy.answer == "final-thought" and self._thoughts.may_induce(chain, final=True):
            thought = yield from self._thoughts.thought(chain)
            chain.kept.append(thought)
            yield thought_ended(chain, thought, "the final thought closes by itself")
        return (yield from self._answers.close(chain))

    def _as_interim(self, index: int, chain: Chain, answer: Answer) -> InterimAnswer:
        return InterimAnswer(
            index=index,
            answer=answer.text,
            tokens=answer.tokens,
            ended_by=answer.ended_by,
            kv_tokens_peak=chain.peak,
            kv_bytes_peak=chain.peak * self.plan.token_bytes,
            thinking_tokens=chain.thinking_tokens,
        )
