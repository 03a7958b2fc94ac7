"""The answer: what is written once thinking is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from minseek.decode import TagWatcher, TokenLogprob, check_logprobs, check_stop
from minseek.models import Model
from minseek.reasoning.chain import Chain, RunSteps
from minseek.reasoning.events import AnswerToken
from minseek.reasoning.limits import Limits
from minseek.reasoning.thinking import Written


@dataclass
class Answer:
    """An answer as it was written.

    Attributes
    ----------
    told : list of AnswerToken
        All of it, token by token.
    closing : list of int
        What closed the thinking before it.
    ended_by : str
        Why it ended; see `Stats`.
    """

    closing: Sequence[int]
    told: list[AnswerToken] = field(default_factory=list)
    ended_by: str = "end"

    @property
    def text(self) -> str:
        """Without white space around it."""
        return "".join(event.text for event in self.told).strip()

    @property
    def tokens(self) -> list[int]:
        """Its tokens; those of a stop string that ended it are among them."""
        return [event.token for event in self.told if event.token is not None]


class AnswerWriter:
    """Closes thinking and writes answers into a chain.

    Parameters
    ----------
    stop : sequence of str
        Texts that end the answer. White space at its beginning is not searched for them: it is no part of the answer,
        and many models write some behind the close tag.
    logprobs : int or None
        Most likely tokens to tell with each of the answer's; None tells no likelihoods at all.
    """

    def __init__(self, model: Model, limits: Limits, stop: Sequence[str] = (), logprobs: int | None = None) -> None:
        self._model, self._limits = model, limits
        self._stop, self.logprobs = check_stop(stop), check_logprobs(logprobs)
        self.closing = model.encode(model.thinking.closing)

    def close(self, chain: Chain) -> RunSteps[Answer]:
        """Close thinking, with the tag as the model wrote it behind the last thought or else the format's; answer."""
        closing = chain.sampled_tag or self.closing
        chain.tokens.extend(closing)
        yield from chain.feed(closing)
        return (yield from self.answer(chain, closing))

    def answer(self, chain: Chain, closing: Sequence[int] = (), carried: Written | None = None) -> RunSteps[Answer]:
        """Write the answer; `carried` tokens of it have been read already."""
        answer, limit = Answer(closing), self._limits.most_answer(chain.thinking_tokens)
        stream, words = chain.text_stream(before=len(carried or ())), _Words(self._stop)

        def told(token: int | None, text: str, logprob: TokenLogprob | None = None) -> AnswerToken:
            answer.told.append(AnswerToken(token, text, chain.length, logprob))
            return answer.told[-1]

        if chain.sampled_tag and (head := words.push(chain.text_after_tag)):
            yield told(None, head)
        count = 0
        for token, logprob in (carried or ())[:limit]:
            if words.stopped:
                break
            count += 1
            yield told(token, words.push(stream.push(token)), logprob)
        while not chain.over and not words.stopped:
            if count >= limit:
                answer.ended_by = "answer-tokens"
                break
            if not chain.plan.allows(chain.length):
                answer.ended_by = chain.plan.bound_by
                break
            token = chain.pick()
            if token in self._model.eos_token_ids:
                break
            chain.tokens.append(token)
            count += 1
            yield told(token, words.push(stream.push(token)), chain.logprob(token, self.logprobs))
            if count < limit and not words.stopped:
                yield from chain.feed([token])
        if not words.stopped and (rest := words.push(stream.flush()) + words.flush()):
            yield told(None, rest)
        if words.stopped:
            answer.ended_by = "stop"
        return answer

    def repeat(self, chain: Chain, answer: Answer) -> RunSteps[Answer]:
        """Tell an answer that was written, and forgotten, before; nothing of it is read again."""
        chain.tokens.extend([*answer.closing, *answer.tokens])
        for event in answer.told:
            yield replace(event, cached=chain.length)
        return answer


class _Words:
    """Text that arrives piece by piece, up to a stop string behind its first character that is no space."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._watcher, self._begun = TagWatcher(*stop), False

    @property
    def stopped(self) -> bool:
        return self._watcher.found

    def push(self, piece: str) -> str:
        """The text that certainly belongs to the answer now."""
        body = piece if self._begun else piece.lstrip()
        self._begun = self._begun or bool(body)
        return piece[: len(piece) - len(body)] + self._watcher.push(body)

    def flush(self) -> str:
        """The text held back, once no more will come."""
        return self._watcher.flush()
