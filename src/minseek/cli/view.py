"""Display of a run: reasoning on standard error with a live line, the answer on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minseek.signals import exit_code
from minseek.units import format_bytes

if TYPE_CHECKING:
    from rich.live import Live

    from minseek.reasoning import Event, Result, RunPlan, Strategy, Thought, ThoughtEnded


@contextmanager
def loading(name: str) -> Iterator[None]:
    """A moving line on a terminal while a model is loaded."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(f"loading {name}") if console.is_terminal else nullcontext():
        yield


class ReasoningView:
    """Shows the events of one run.

    Parameters
    ----------
    hide : bool
        Do not show the reasoning.
    silent : bool
        Do not print the answer: the caller prints a report.
    load_seconds : float
        Time of loading the model, for the usage line.
    """

    def __init__(
        self, strategy: Strategy, plan: RunPlan, *, thinks: bool, hide: bool, silent: bool, load_seconds: float
    ) -> None:
        from rich.console import Console

        self._wanted_thoughts, self._plan, self._thinks = strategy.thoughts, plan, thinks
        self._hide, self._silent, self._load_seconds = hide, silent, load_seconds
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self._begun = False  # the current thought has shown text
        self._line = ""  # reasoning text that has not seen its newline
        self._answer: list[str] = []
        self._ended: list[ThoughtEnded] = []
        self._result: Result | None = None
        self._tokens = self.exit_code = 0
        self._began = time.perf_counter()

    def follow(self, events: Iterator[Event]) -> bool:
        """Show all events; False if the run was interrupted, and then `exit_code` tells how."""
        from rich.live import Live

        live = None
        if not self._hide and self._errors.is_terminal:
            live = Live(console=self._errors, transient=True, auto_refresh=False, vertical_overflow="visible")
        try:
            if live:
                live.start()
            for event in events:
                self._show(event, live)
        except KeyboardInterrupt as error:
            self.exit_code = exit_code(error)
            self._end_line(live)
            if live:
                live.stop()
            self._end_answer()
            where = "in the answer" if self._answer else f"in thought {len(self._ended)}"
            print(f"minseek: interrupted {where} after {self._tokens} tokens", file=sys.stderr)
            return False
        finally:
            if live:
                live.stop()
        self._end_answer()
        if self._result is not None:
            stats = self._result.stats
            if stats.ended_by in _LIMITS and self._thinks:
                print(f"minseek: {_LIMITS[stats.ended_by]}", file=sys.stderr)
            if self._result.note is not None:
                print(f"minseek: {self._result.note}; {_REMEDIES[stats.answer_ended_by]}", file=sys.stderr)
            elif stats.answer_ended_by in _CUTS:
                print(f"minseek: {_CUTS[stats.answer_ended_by]}", file=sys.stderr)
        return True

    @property
    def is_empty(self) -> bool:
        """True if the run has finished without an answer."""
        return self._result is not None and self._result.note is not None

    def report(self) -> dict[str, Any]:
        """The run as plain data, or the finished part of an interrupted run."""
        if self._result is None:
            thoughts = [event.thought for event in self._ended]
            return {
                "interrupted": True,
                "answer": "".join(self._answer).strip(),
                "thoughts": [_thought_fields(thought) for thought in thoughts],
            }
        stats = self._result.stats
        return {
            "answer": self._result.answer,
            "note": self._result.note,
            "thoughts": [_thought_fields(thought) for thought in self._result.thoughts],
            "stats": asdict(stats) | {"tokens": stats.tokens, "tokens_per_second": stats.tokens_per_second},
        }

    def show_usage(self) -> None:
        """Print tokens, bytes and seconds of the run on standard error."""
        if self._result is None:
            return
        s = self._result.stats
        chain = s.prompt_tokens + len(self._result.tokens)
        full = chain * self._plan.token_bytes
        interim = f"{s.interim_tokens} interim + " if s.interim_tokens else ""
        print(
            f"{s.prompt_tokens} prompt + {s.thinking_tokens} thinking ({s.thoughts} induced thoughts) + "
            f"{interim}{s.answer_tokens} answer tokens in {s.seconds:.1f} s ({s.tokens_per_second:.1f} tok/s; "
            f"model ready after {self._load_seconds:.1f} s)\n"
            f"cache: at most {s.kv_tokens_peak} tokens, {format_bytes(s.kv_bytes_peak)} "
            f"({format_bytes(s.kv_bytes_allocated)} allocated); "
            f"keeping everything: {chain} tokens, {format_bytes(full)}",
            file=sys.stderr,
        )

    def _show(self, event: Event, live: Live | None) -> None:
        from minseek.reasoning import (
            AnswerToken,
            Finished,
            InterimAnswer,
            ThoughtEnded,
            ThoughtStarted,
            ThoughtToken,
        )
        from minseek.reasoning.answer_extraction import final_answer

        if isinstance(event, ThoughtToken):
            self._tokens += event.token is not None
            if not self._hide:
                self._write(event.text if self._begun else event.text.lstrip("\n"), live)
                self._begun = self._begun or bool(event.text.strip("\n"))
                self._show_status(event.index, event.cached, live)
        elif isinstance(event, ThoughtStarted):
            self._begun = False
            if not self._hide:
                self._say(f"thought {event.index}", "bold cyan", live)
        elif isinstance(event, ThoughtEnded):
            self._ended.append(event)
            if not self._hide:
                self._end_line(live)
                self._say(self._describe_decision(event), "green" if event.kept else "yellow", live)
        elif isinstance(event, InterimAnswer):
            if not self._hide:
                self._say(f"  answer by then: {final_answer(event.answer)[:_MAX_ANSWER_CHARS]}", "magenta", live)
        elif isinstance(event, AnswerToken):
            if live:
                live.stop()
            self._tokens += event.token is not None
            text = event.text if self._answer else event.text.lstrip()
            if text:
                self._answer.append(text)
                if not self._silent:
                    sys.stdout.write(text)
                    sys.stdout.flush()
        elif isinstance(event, Finished):
            self._result = event.result

    def _describe_decision(self, event: ThoughtEnded) -> str:
        size = format_bytes(event.cached * self._plan.token_bytes)
        fate = "kept" if event.kept else "dropped"
        cut = event.thought.cut_off
        cut = "" if event.why.startswith(cut) else f", {cut}"  # without a reason of its own the end is the reason
        if event.thought.ended_by == "loop":
            cut = ", ended as a loop; only its first round counts"
        return f"  {fate}{cut}: {event.why}; cache {event.cached} tokens, {size}"

    def _write(self, text: str, live: Live | None) -> None:
        """Reasoning text: whole lines above the live line, the unfinished one inside it."""
        if live is None:
            self._errors.file.write(text)
            self._errors.file.flush()
            self._line = text.rpartition("\n")[2] if "\n" in text else self._line + text
            return
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._say(line, "dim", live)

    def _end_line(self, live: Live | None) -> None:
        if self._line:
            if live is None:
                self._errors.file.write("\n")
            else:
                self._say(self._line, "dim", live)
        self._line = ""

    def _say(self, line: str, style: str, live: Live | None) -> None:
        from rich.text import Text

        if live is not None:
            live.update("")
        self._errors.print(Text(line, style=style))

    def _show_status(self, index: int, cached: int, live: Live | None) -> None:
        if live is None:
            return
        from rich.console import Group
        from rich.text import Text

        wanted = self._wanted_thoughts
        of = "" if wanted is None else f" of {wanted}"
        speed = self._tokens / max(1e-9, time.perf_counter() - self._began)
        size = format_bytes(cached * self._plan.token_bytes)
        status = f"thought {index}{of} · {self._tokens} tokens · cache {cached} tokens, {size} · {speed:.1f} tok/s"
        fits = self._errors.width * max(
            1, self._errors.height - 3
        )  # a live region must not be taller than the terminal
        live.update(Group(Text(self._line[-fits:], style="dim"), Text(status, style="reverse")), refresh=True)

    def _end_answer(self) -> None:
        if self._answer and not self._silent and not self._answer[-1].endswith("\n"):
            print()


def _thought_fields(thought: Thought) -> dict[str, Any]:
    """A thought as plain data: `tokens` is their number, as in the server and in batch files."""
    return asdict(thought) | {"tokens": thought.length, "token_ids": thought.tokens}


_MAX_ANSWER_CHARS = 80  # characters of an interim answer
_CUTS = {
    "answer-tokens": "the answer was cut off at its limit; --answer-tokens moves it",
    "kv-budget": "the answer was cut off because the KV budget was full; --kv-budget or --memory moves it",
    "context": "the answer was cut off at the model's context length",
    "loop": "the answer was ended because it repeated itself; --no-loop-detection lets it go on",
}
_REMEDIES = {
    "end": "give another --seed, or other --thoughts",
    "loop": "give another --seed, or other --thoughts",
    "stop": "give another --seed",
    "answer-tokens": "give more --answer-tokens",
    "kv-budget": "give a larger --kv-budget or --memory",
    "context": "give fewer or shorter thoughts (--thoughts, --max-thought-tokens)",
}
_LIMITS = {
    "thinking-budget": "thinking was ended by --thinking-budget; the answer rests on what was thought by then",
    "kv-budget": "thinking was ended because the KV budget was full; the answer rests on what was kept by then",
    "context": "thinking was ended at the model's context length; the answer rests on what was kept by then",
}
