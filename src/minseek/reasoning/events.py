"""Typed events of a run, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from minseek.units import format_beginning, format_count

if TYPE_CHECKING:
    from minseek.decode import TokenLogprob

Ending = Literal["closed", "max-thought-tokens", "loop", "thinking-budget", "context", "kv-budget"]
"""Reason for the end of a thought: the model closed it, it repeated itself, or one of the limits."""


@dataclass
class Thought:
    """A thought: index 0 is the first one, which stays with the prompt; the others were induced.

    Attributes
    ----------
    index : int
    text : str
        Text without tags; an induced thought begins with the word that induced it.
    tokens : list of int
        Token ids, those of the inducing word included; of a loop, those up to the end of its first round.
    kept : bool
        True if it was in the cache at the end.
    ended_by : str
        Reason for its end.
    logprob : float or None
        Mean log-probability (natural) of the tokens that the model generated, before temperature and filters. None if
        the strategy does not need it, or the model generated no token.
    """

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    kept: bool = True
    ended_by: Ending = "closed"
    logprob: float | None = None

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    def __repr__(self) -> str:
        fate = f"{'kept' if self.kept else 'dropped'}, {self.ended_by}"
        return f"Thought({self.index}: {format_beginning(self.text)}, {format_count(self.length, 'token')}, {fate})"

    @property
    def finished(self) -> bool:
        """True if the model or the limit on every thought ended it, rather than a limit on the run."""
        return self.ended_by in ("closed", "max-thought-tokens")

    @property
    def cut_off(self) -> str:
        """The limit or the loop that cut it off, in words; empty if it finished."""
        return "" if self.finished else _CUT_OFF[self.ended_by]


_CUT_OFF: dict[Ending, str] = {
    "loop": "it repeats itself",
    "thinking-budget": "cut off by the budget of thinking tokens",
    "context": "cut off by the context",
    "kv-budget": "cut off by the KV budget",
}


@dataclass(frozen=True)
class Stats:
    """Tokens, bytes and seconds of a run.

    Attributes
    ----------
    prompt_tokens, thinking_tokens, answer_tokens : int
        Thinking counts every thought, dropped ones, inducing words and the removed rounds of loops included.
    seconds, prefill_seconds : float
        Time of the whole run; time of the prefill.
    kv_tokens, kv_tokens_peak : int
        Tokens in the cache at the end and at most; no position ever reached the latter.
    kv_bytes, kv_bytes_peak : int
        Bytes of these tokens.
    kv_bytes_allocated : int
        Most bytes allocated for the cache: its whole slot or budget, or a cache that grows in blocks of tokens.
    thoughts : int
        Induced thoughts, a final one included.
    ended_by : str
        Reason for the end of thinking: "thoughts" (as many as wanted), "stable" (interim answers agreed), "decided" (no
        further answer can change the vote), "max-tokens", "loop" (the last thought repeated itself),
        "thinking-budget", "context" or "kv-budget".
    answer_ended_by : str
        "end" (of the model's turn), "stop" (a stop string), "loop", "answer-tokens", "context" or "kv-budget".
    interim_tokens : int
        Tokens generated for interim answers other than the final one, and then discarded.
    """

    prompt_tokens: int = 0
    thinking_tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    prefill_seconds: float = 0.0
    kv_tokens: int = 0
    kv_tokens_peak: int = 0
    kv_bytes: int = 0
    kv_bytes_peak: int = 0
    kv_bytes_allocated: int = 0
    thoughts: int = 0
    ended_by: str = "thoughts"
    answer_ended_by: str = "end"
    interim_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Generated tokens, those of interim answers included."""
        return self.thinking_tokens + self.answer_tokens + self.interim_tokens

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over the time after the prefill."""
        seconds = self.seconds - self.prefill_seconds
        return self.tokens / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes
    ----------
    answer : str
    thoughts : list of Thought
        All thoughts in order, dropped ones included.
    stats : Stats
    tokens : list of int
        Everything after the prompt in the order it was generated or induced, tags included.
    """

    answer: str
    thoughts: list[Thought]
    stats: Stats
    tokens: list[int]

    def __repr__(self) -> str:
        counts = f"{format_count(len(self.thoughts), 'thought')}, {format_count(self.stats.tokens, 'token')}"
        return f"Result({format_beginning(self.answer)}, {counts}, {self.stats.seconds:.1f} s)"

    @property
    def note(self) -> str | None:
        """Reason for an empty answer, one sentence; None if there is an answer."""
        return None if self.answer else f"the answer is empty: {_EMPTY[self.stats.answer_ended_by]}"


@dataclass(frozen=True)
class ThoughtStarted:
    """A thought begins; `word` is the text that induced it."""

    index: int
    word: str = ""


@dataclass(frozen=True)
class ThoughtToken:
    """A token of a thought and the text it completes, perhaps none; the last text may come without a token.

    `cached` is the number of tokens in the cache.

    With close tags of several tokens, the last ones may turn out to belong to the tag, and of a loop all rounds but the
    first are removed: `ThoughtEnded` has the tokens that are left.
    """

    index: int
    token: int | None
    text: str
    cached: int


@dataclass(frozen=True)
class ThoughtEnded:
    """A thought ended and was kept or dropped, and why. `dropped` is the index of the thought that left for it.

    `cached` is the number of tokens in the cache after that.
    """

    thought: Thought
    kept: bool
    why: str
    dropped: int | None
    cached: int


@dataclass(frozen=True)
class AnswerToken:
    """A token of the answer and the text it completes, perhaps none; the last text may come without a token.

    Text that may become a stop string is held back, and no part of a stop string is ever emitted. `logprob` is
    None unless it was requested, and if there is no token.
    """

    token: int | None
    text: str
    cached: int
    logprob: TokenLogprob | None = None


@dataclass(frozen=True)
class InterimAnswer:
    """The answer that the run would have given after fewer thoughts; see ``answer_after`` of `minseek.stream`.

    Attributes
    ----------
    index : int
        Thoughts induced before it; 0 after the first thought.
    answer : str
    tokens : list of int
        Token ids of the answer.
    ended_by : str
        Reason for the end of the answer; see ``answer_ended_by`` of `Stats`.
    kv_tokens_peak, kv_bytes_peak : int
        Tokens in the cache at most, had the run ended here (other interim answers do not count), and their bytes.
    thinking_tokens : int
        Tokens of all thoughts up to here, counted as in `Stats`.
    """

    index: int
    answer: str
    tokens: list[int]
    ended_by: str
    kv_tokens_peak: int
    kv_bytes_peak: int
    thinking_tokens: int


@dataclass(frozen=True)
class Finished:
    """The run is over."""

    result: Result


_EMPTY = {
    "end": "the model ended its turn at once",
    "stop": "it began with a stop text",
    "loop": "the model wrote nothing but white space",
    "answer-tokens": "its limit of tokens left space for nothing but white space",
    "context": "no space for it was left in the model's context",
    "kv-budget": "no space for it was left in the KV budget or slot",
}

Event = ThoughtStarted | ThoughtToken | ThoughtEnded | AnswerToken | InterimAnswer | Finished
