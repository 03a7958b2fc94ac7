"""Generation of the answer after thinking is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from minseek.decode import LoopDetector, TagWatcher, TokenLogprob
from minseek.models import Model
from minseek.reasoning.chain import Chain, PrefixTokens, RunSteps
from minseek.reasoning.events import AnswerToken
from minseek.reasoning.options import RunOptions


@dataclass
class Answer:
    """A generated answer.

    Attributes
    ----------
    closing : sequence of int
        Tokens that closed the thinking before it.
    events : list of AnswerToken
        The whole answer, token by token.
    ended_by : str
        Reason for its end; see `Stats`.
    """

    closing: Sequence[int]
    events: list[AnswerToken] = field(default_factory=list)
    ended_by: str = "end"

    @property
    def text(self) -> str:
        """Text without surrounding white space."""
        return "".join(event.text for event in self.events).strip()

    @property
    def tokens(self) -> list[int]:
        """Token ids, those of a stop string that ended the answer included."""
        return [event.token for event in self.events if event.token is not None]


class AnswerWriter:
    """Closes thinking and generates answers at the end of a chain.

    White space at the beginning of an answer is not searched for stop strings: it is no part of the answer, and many
    models write some after the close tag.
    """

    def __init__(self, model: Model, options: RunOptions) -> None:
        self._model, self._limits = model, options.limits
        self._stop, self._logprobs = tuple(options.stop), options.logprobs
        self._banned = tuple(model.eos_token_ids) if options.needs_answer else ()
        self.closing = model.encode_continuation(model.thinking.closing)

    def close(self, chain: Chain) -> RunSteps[Answer]:
        """Close thinking, with the tag that the model wrote after the last thought or else the format's, and answer."""
        closing = chain.sampled_tag or self.closing
        chain.tokens.extend(closing)
        yield from chain.feed(closing)
        return (yield from self.answer(chain, closing))

    def answer(
        self, chain: Chain, closing: Sequence[int] = (), prefix_tokens: PrefixTokens | None = None
    ) -> RunSteps[Answer]:
        """Generate the answer; its `prefix_tokens` are already in the cache."""
        answer, limit = Answer(closing), self._limits.max_answer_tokens(chain.thinking_tokens)
        stream, visible = chain.text_stream(before=len(prefix_tokens or ())), _AnswerText(self._stop)

        def emit(token: int | None, text: str, logprob: TokenLogprob | None = None) -> AnswerToken:
            answer.events.append(AnswerToken(token, text, chain.length, logprob))
            return answer.events[-1]

        def push(token: int, logprob: TokenLogprob | None) -> AnswerToken:
            piece = stream.push(token)
            return emit(token, visible.push(piece), None if logprob is None else replace(logprob, text=piece))

        if chain.sampled_tag and (head := visible.push(chain.text_after_tag)):
            yield emit(None, head)
        loop = LoopDetector() if self._limits.loop_detection else None
        count = 0
        for token, logprob in (prefix_tokens or ())[:limit]:
            if visible.stopped:
                break
            count += 1
            if loop is not None:
                loop.push(token)
            yield push(token, logprob)
        while not chain.over and not visible.stopped:
            if count >= limit:
                answer.ended_by = "answer-tokens"
                break
            if not chain.plan.allows(chain.length):
                answer.ended_by = chain.plan.bound_by
                break
            token = chain.pick()
            if token in self._banned and not visible.started:
                token = chain.pick(banned=self._banned)
            if token in self._model.eos_token_ids:
                break
            chain.tokens.append(token)
            count += 1
            yield push(token, chain.logprob(token, self._logprobs))
            if loop is not None and loop.push(token):
                answer.ended_by = "loop"
                break
            if count < limit and not visible.stopped:
                yield from chain.feed([token])
        if not visible.stopped and (rest := visible.push(stream.flush()) + visible.flush()):
            yield emit(None, rest)
        if visible.stopped:
            answer.ended_by = "stop"
        return answer

    def repeat(self, chain: Chain, answer: Answer) -> RunSteps[Answer]:
        """Emit again an answer that was generated and discarded before; the cache does not change."""
        chain.tokens.extend([*answer.closing, *answer.tokens])
        for event in answer.events:
            yield replace(event, cached=chain.length)
        return answer


class _AnswerText:
    """The text of an answer, piece by piece, up to a stop string after its first character that is no space."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._watcher, self.started = TagWatcher(*stop), False

    @property
    def stopped(self) -> bool:
        return self._watcher.found

    def push(self, piece: str) -> str:
        """The text that now certainly belongs to the answer."""
        body = piece if self.started else piece.lstrip()
        self.started = self.started or bool(body)
        return piece[: len(piece) - len(body)] + self._watcher.push(body)

    def flush(self) -> str:
        """The text held back, once no more follows."""
        return self._watcher.flush()
