"""Bodies of responses, as OpenAI's clients read them; `minseek` is what is ours."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from minseek.serve.engine_thread import State

FinishReason = Literal["stop", "length"]


class ErrorDetails(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The envelope of every error."""

    error: ErrorDetails


class ThoughtReply(BaseModel):
    """A thought; `kept` says whether it was in the cache at the end."""

    index: int
    tokens: int
    kept: bool
    ended_by: str
    text: str


class MinseekDetails(BaseModel):
    """How an answer came about; bytes are those of the tokens in the cache at most."""

    thoughts: list[ThoughtReply]
    kv_tokens_peak: int
    kv_bytes_peak: int
    ended_by: str
    answer_ended_by: str
    seconds: float
    tokens_per_second: float


class TopLogprob(BaseModel):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    """A token of the answer, and the most probable ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of the answer's tokens."""

    content: list[ChatLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """An answer and the thinking before it, under both names in use."""

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
    minseek: MinseekDetails


class PromptDetails(BaseModel):
    """Of the prompt's tokens, those that were there already: none."""

    cached_tokens: int = 0


class CompletionDetails(BaseModel):
    """Of the generated tokens, those of thinking."""

    reasoning_tokens: int = 0


class Usage(BaseModel):
    """Tokens read and written; the prompt counts once, however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = Field(default_factory=PromptDetails)
    completion_tokens_details: CompletionDetails = Field(default_factory=CompletionDetails)

    @staticmethod
    def of(read: int, written: int, reasoning: int = 0) -> Usage:
        """Of a request with so many tokens."""
        details = CompletionDetails(reasoning_tokens=reasoning)
        return Usage(
            prompt_tokens=read,
            completion_tokens=written,
            total_tokens=read + written,
            completion_tokens_details=details,
        )


class ChatResponse(BaseModel):
    """What ``POST /v1/chat/completions`` gives; `minseek` is the first choice's."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    minseek: MinseekDetails


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion's tokens; `text_offset` is where each token's text begins."""

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
    """What ``POST /v1/completions`` gives."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelReply(BaseModel):
    """The model; `minseek` says how much memory, how many slots, and how it thinks."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "minseek"
    minseek: dict[str, Any]


class ModelsReply(BaseModel):
    """The list of models: the one that is loaded."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class HealthReply(BaseModel):
    """Whether requests are taken."""

    status: State
