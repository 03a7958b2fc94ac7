"""Events of a reasoning run as deltas of reasoning and content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from minseek.decode import TokenLogprob
from minseek.models import ThinkingFormat
from minseek.protocol.responses import FinishReason, MinseekDetails
from minseek.protocol.token_texts import TokenTexts
from minseek.reasoning import (
    AnswerToken,
    Event,
    Finished,
    Result,
    Stats,
    ThoughtEnded,
    ThoughtStarted,
    ThoughtToken,
)


class CleanText:
    """Filter that removes tags and surrounding white space from text that arrives in pieces.

    Text is released as soon as it is certain; the result does not depend on how the text is cut into pieces.
    """

    def __init__(self, tags: Iterable[str] = ()) -> None:
        self._tags = tuple(tag for tag in tags if tag)
        self._longest = max(map(len, self._tags), default=0)
        self._open = ""  # perhaps the beginning of a tag
        self._space = ""  # perhaps the end of the text
        self._tail = ""  # last characters before them
        self._started = False

    def push(self, piece: str, *, last: bool = False) -> str:
        """Add a piece; return the text that is certain now."""
        text = self._without_tags(piece, last)
        if not self._started:
            text = text.lstrip()
            self._started = bool(text)
        text = self._space + text
        released = text.rstrip()
        self._space = text[len(released) :]
        return released

    def _without_tags(self, piece: str, last: bool) -> str:
        if not self._tags:
            return piece
        if not self._open and not any(tag[0] in piece or tag[-1] in piece for tag in self._tags):
            self._tail = (self._tail + piece)[-self._longest :]
            return piece
        passed = ""
        for character in piece:
            self._open += character
            if self._open in self._tags:
                self._open = ""
            while not any(tag.startswith(self._open) for tag in self._tags):
                passed += self._pass()
        while last and self._open:
            passed += self._pass()
        return passed

    def _pass(self) -> str:
        """Release a character that begins no tag, unless it completes one with the text around a removed tag."""
        character, self._open = self._open[0], self._open[1:]
        if (self._tail + character).endswith(self._tags):
            return ""
        self._tail = (self._tail + character)[-self._longest :]
        return character


@dataclass
class Delta:
    """Content of one chunk of a stream.

    Attributes
    ----------
    kind : {"reasoning", "content", "note"}
        Kind of `text`, which is empty for a note.
    note : dict
        Extension of the API: state of thoughts and cache.
    logprobs : list of TokenLogprob
        Tokens whose text is certain now, with their texts.
    """

    kind: Literal["reasoning", "content", "note"]
    text: str
    note: dict[str, Any]
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ChatStream:
    """Turns the events of one run into deltas.

    A complete response joins the deltas of a stream, so that both have the same text.

    Parameters
    ----------
    form : ThinkingFormat
        Format whose tags never become content.
    token_bytes : int
        Bytes of one token in the cache.

    Attributes
    ----------
    result : Result or None
        Result of the run, once it has finished.
    """

    def __init__(self, form: ThinkingFormat, token_bytes: int) -> None:
        self._token_bytes = token_bytes
        self._reasoning, self._content = CleanText(), CleanText((form.open, form.close))
        self._line_ended = True
        self._tokens = 0  # of the current thought
        self._texts = TokenTexts()
        self.result: Result | None = None

    def deltas(self, events: Iterable[Event]) -> Iterator[Delta]:
        """Return the deltas of these events; consecutive tokens share a delta."""
        last: Delta | None = None
        for event in events:
            for delta in self._deltas(event):
                if last is not None and delta.kind != "note" and last.kind == delta.kind:
                    last = Delta(delta.kind, last.text + delta.text, delta.note, last.logprobs + delta.logprobs)
                    continue
                if last is not None:
                    yield last
                last = delta
        if last is not None:
            yield last

    def _deltas(self, event: Event) -> Iterator[Delta]:
        if isinstance(event, ThoughtStarted):
            self._tokens = 0
            yield Delta("note", "", {"type": "thought_started", "index": event.index, "word": event.word})
            if not self._line_ended:
                self._reasoning.push("\n")
                self._line_ended = True
        elif isinstance(event, ThoughtToken):
            self._tokens += event.token is not None
            if event.text:
                self._line_ended = event.text.endswith("\n")
            note = {"type": "thought", "index": event.index, "tokens": self._tokens, **self._cache(event.cached)}
            if text := self._reasoning.push(event.text):
                yield Delta("reasoning", text, note)
        elif isinstance(event, ThoughtEnded):
            yield Delta("note", "", self._thought_ended(event))
        elif isinstance(event, AnswerToken):
            yield from self._answer(event.text, event.cached, event.logprob)
        elif isinstance(event, Finished):
            yield from self._finish(event.result)

    def _answer(self, text: str, cached: int, logprob: TokenLogprob | None, *, last: bool = False) -> Iterator[Delta]:
        if logprob is not None:
            self._texts.add(logprob)
        if text := self._content.push(text, last=last):
            yield Delta("content", text, {"type": "answer", **self._cache(cached)}, self._texts.release(text))

    def _finish(self, result: Result) -> Iterator[Delta]:
        self.result = result
        yield from self._answer("", result.stats.kv_tokens, None, last=True)
        rest = self._texts.finish(stopped=result.stats.answer_ended_by == "stop")
        yield Delta("note", "", {"type": "finished", **self.details().model_dump()}, rest)

    def _thought_ended(self, event: ThoughtEnded) -> dict[str, Any]:
        return {
            "type": "thought_ended",
            "index": event.thought.index,
            "tokens": event.thought.length,
            "kept": event.kept,
            "dropped": event.dropped,
            "why": event.why,
            "ended_by": event.thought.ended_by,
            **self._cache(event.cached),
        }

    def _cache(self, tokens: int) -> dict[str, int]:
        return {"kv_tokens": tokens, "kv_bytes": tokens * self._token_bytes}

    @property
    def stats(self) -> Stats:
        """Statistics of the run, once it has finished."""
        assert self.result is not None, "the run has not finished"
        return self.result.stats

    @property
    def finish_reason(self) -> FinishReason:
        """Finish reason in OpenAI's terms."""
        return "stop" if self.stats.answer_ended_by in ("end", "stop") else "length"

    def details(self) -> MinseekDetails:
        """Return how the answer came about, once it is complete."""
        assert self.result is not None, "the run has not finished"
        return MinseekDetails.of(self.result)
