"""Bodies of responses in OpenAI's format; the field `minseek` is ours."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from minseek.reasoning import Result

FinishReason = Literal["stop", "length"]


class ErrorDetails(BaseModel):
    """Description of an error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Envelope of every error."""

    error: ErrorDetails


class ThoughtDetails(BaseModel):
    """A thought; `kept` is true if it was in the cache at the end."""

    index: int
    tokens: int
    kept: bool
    ended_by: str
    text: str


class MinseekDetails(BaseModel):
    """Thoughts and cache of an answer; peaks are those of the tokens held, `note` explains an empty answer."""

    thoughts: list[ThoughtDetails]
    kv_tokens_peak: int
    kv_bytes_peak: int
    kv_bytes_allocated: int
    ended_by: str
    answer_ended_by: str
    note: str | None = None
    seconds: float
    tokens_per_second: float

    @staticmethod
    def of(result: Result) -> MinseekDetails:
        """Build the details of a run."""
        stats = result.stats
        return MinseekDetails(
            thoughts=[
                ThoughtDetails(index=t.index, tokens=t.length, kept=t.kept, ended_by=t.ended_by, text=t.text)
                for t in result.thoughts
            ],
            kv_tokens_peak=stats.kv_tokens_peak,
            kv_bytes_peak=stats.kv_bytes_peak,
            kv_bytes_allocated=stats.kv_bytes_allocated,
            ended_by=stats.ended_by,
            answer_ended_by=stats.answer_ended_by,
            note=result.note,
            seconds=round(stats.seconds, 3),
            tokens_per_second=round(stats.tokens_per_second, 1),
        )


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A token of the answer, and the most likely ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of the answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """An answer, and the thinking before it under both names in use."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    minseek: MinseekDetails | None = None


class PromptDetails(BaseModel):
    """Tokens of the prompt that were cached already: none."""

    cached_tokens: int = 0


class CompletionDetails(BaseModel):
    """Tokens of thinking among the generated ones."""

    reasoning_tokens: int = 0


class Usage(BaseModel):
    """Token counts; a prompt counts once, however many choices it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = Field(default_factory=PromptDetails)
    completion_tokens_details: CompletionDetails = Field(default_factory=CompletionDetails)

    @staticmethod
    def of(prompt_tokens: int, completion_tokens: int, reasoning_tokens: int = 0) -> Usage:
        """Build the usage of a request from its token counts."""
        details = CompletionDetails(reasoning_tokens=reasoning_tokens)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            completion_tokens_details=details,
        )


class ChatResponse(BaseModel):
    """Response of ``POST /v1/chat/completions``; `minseek` repeats that of the first choice."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    minseek: MinseekDetails | None = None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens; `text_offset` is the index at which each token's text begins."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason


class CompletionResponse(BaseModel):
    """Response of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
