"""One answer as it comes: events of a run become pieces of reasoning and of content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from minseek.decode import TokenLogprob
from minseek.models import ThinkingFormat
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
from minseek.serve.replies import FinishReason


class CleanText:
    """Text without tags, and without white space around it, whose pieces are given out as soon as they are certain.

    What comes out does not depend on how the text is cut into pieces.
    """

    def __init__(self, tags: Iterable[str] = ()) -> None:
        self._tags = tuple(tag for tag in tags if tag)
        self._longest = max(map(len, self._tags), default=0)
        self._open = ""  # may be the beginning of a tag
        self._space = ""  # may be the end of the text
        self._tail = ""  # the last characters before them
        self._begun = False

    def push(self, piece: str, *, last: bool = False) -> str:
        """Take a piece; give what can be given."""
        text = self._without_tags(piece, last)
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        text = self._space + text
        given = text.rstrip()
        self._space = text[len(given) :]
        return given

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
        """A character that begins no tag; nothing, if it would complete one with what stood around a tag."""
        character, self._open = self._open[0], self._open[1:]
        if (self._tail + character).endswith(self._tags):
            return ""
        self._tail = (self._tail + character)[-self._longest :]
        return character


@dataclass
class Delta:
    """What one chunk of a stream tells.

    Attributes
    ----------
    kind : {"reasoning", "content", "note"}
        What `text` is; a note has none.
    note : dict
        The extension of the API: what happens to thoughts and cache.
    logprobs : list of TokenLogprob
        Of the tokens whose text is certain now.
    """

    kind: Literal["reasoning", "content", "note"]
    text: str
    note: dict[str, Any]
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ChatStream:
    """Reads the events of one run.

    A stream gives the pieces out; whoever wants the whole answer joins them, so that both say the same.

    Parameters
    ----------
    form : ThinkingFormat
        Its tags never become content.
    token_bytes : int
        Of one token in the cache.
    """

    def __init__(self, form: ThinkingFormat, token_bytes: int) -> None:
        self._token_bytes = token_bytes
        self._reasoning, self._content = CleanText(), CleanText((form.open, form.close))
        self._line_ended = True
        self._tokens = 0  # of the thought that runs
        self._uncertain: list[TokenLogprob] = []
        self.result: Result | None = None

    def pieces(self, events: Iterable[Event]) -> Iterator[Delta]:
        """Pieces of what happened; tokens that came together make one piece."""
        last: Delta | None = None
        for event in events:
            for piece in self._pieces(event):
                if last is not None and piece.kind != "note" and last.kind == piece.kind:
                    last = Delta(piece.kind, last.text + piece.text, piece.note, last.logprobs + piece.logprobs)
                    continue
                if last is not None:
                    yield last
                last = piece
        if last is not None:
            yield last

    def _pieces(self, event: Event) -> Iterator[Delta]:
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
            self._uncertain.append(logprob)
        if text := self._content.push(text, last=last):
            yield Delta("content", text, {"type": "answer", **self._cache(cached)}, self._uncertain)
            self._uncertain = []

    def _finish(self, result: Result) -> Iterator[Delta]:
        self.result = result
        yield from self._answer("", result.stats.kv_tokens, None, last=True)
        # Tokens without a text of their own still belong to the answer; those of a stop string do not.
        rest = [] if result.stats.answer_ended_by == "stop" else self._uncertain
        yield Delta("note", "", {"type": "finished", **self.report()}, rest)

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
        """What the run took, once it has finished."""
        assert self.result is not None, "the run has not finished"
        return self.result.stats

    @property
    def finish_reason(self) -> FinishReason:
        """As OpenAI calls it."""
        return "stop" if self.stats.answer_ended_by in ("end", "stop") else "length"

    def report(self) -> dict[str, Any]:
        """How the answer came about, once it is there."""
        assert self.result is not None, "the run has not finished"
        stats = self.result.stats
        return {
            "thoughts": [
                {"index": t.index, "tokens": t.length, "kept": t.kept, "ended_by": t.ended_by, "text": t.text}
                for t in self.result.thoughts
            ],
            "kv_tokens_peak": stats.kv_tokens_peak,
            "kv_bytes_peak": stats.kv_tokens_peak * self._token_bytes,
            "ended_by": stats.ended_by,
            "answer_ended_by": stats.answer_ended_by,
            "seconds": round(stats.seconds, 3),
            "tokens_per_second": round(stats.tokens_per_second, 1),
        }
