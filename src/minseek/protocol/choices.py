"""Choices of responses, built from the output of a run or a generation."""

from __future__ import annotations

from collections.abc import Sequence

from minseek.decode import TokenLogprob
from minseek.models import Model
from minseek.protocol.chat_stream import ChatStream, Delta
from minseek.protocol.logprobs import chat_logprobs, completion_logprobs
from minseek.protocol.responses import (
    ChatChoice,
    ChatLogprobs,
    ChatMessage,
    CompletionChoice,
    FinishReason,
    MinseekDetails,
    Usage,
)


def run_choice(model: Model, index: int, stream: ChatStream, deltas: Sequence[Delta], *, logprobs: bool) -> ChatChoice:
    """Build the choice of a finished reasoning run from its stream and all of its deltas."""
    reasoning = "".join(delta.text for delta in deltas if delta.kind == "reasoning")
    return chat_choice(
        model,
        index,
        content="".join(delta.text for delta in deltas if delta.kind == "content"),
        reasoning=reasoning if stream.stats.thinking_tokens else None,
        finish_reason=stream.finish_reason,
        logprobs=[logprob for delta in deltas for logprob in delta.logprobs] if logprobs else None,
        details=stream.details(),
    )


def chat_choice(
    model: Model,
    index: int,
    *,
    content: str,
    reasoning: str | None,
    finish_reason: FinishReason,
    logprobs: Sequence[TokenLogprob] | None,
    details: MinseekDetails | None = None,
) -> ChatChoice:
    """Build a choice of a chat; `logprobs` are those of the content's tokens, if requested."""
    return ChatChoice(
        index=index,
        message=ChatMessage(content=content, reasoning_content=reasoning, reasoning=reasoning),
        logprobs=None if logprobs is None else ChatLogprobs(content=chat_logprobs(model, logprobs)),
        finish_reason=finish_reason,
        minseek=details,
    )


def completion_choice(
    model: Model, index: int, *, text: str, finish_reason: str, logprobs: Sequence[TokenLogprob] | None
) -> CompletionChoice:
    """Build a choice of a completion; `logprobs` are those of the text's tokens, if requested."""
    return CompletionChoice(
        index=index,
        text=text,
        logprobs=None if logprobs is None else completion_logprobs(model, logprobs),
        finish_reason="stop" if finish_reason == "stop" else "length",
    )


def run_usage(streams: Sequence[ChatStream]) -> Usage:
    """Count the tokens of all choices of a chat."""
    stats = [stream.stats for stream in streams]
    return Usage.of(stats[0].prompt_tokens, sum(s.tokens for s in stats), sum(s.thinking_tokens for s in stats))
