"""Bodies of requests: the fields of OpenAI's API that are honoured, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from minseek.reasoning.strategies import AnswerForm, KeepRule, canonical_rule


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold half a surrogate pair; no tokenizer takes it
        raise PydanticCustomError("unicode", "Input should be Unicode text without half a surrogate pair") from None
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Count = Annotated[int, Field(ge=1)]
Tokens = Annotated[int, Field(ge=0)]
TokenId = Annotated[int, Field(ge=0)]
StopText = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_unicode)]
Nothing = Annotated[list[Any], Field(max_length=0)]
Zero = Annotated[float, Field(ge=0, le=0)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
MOST_CHOICES = 8
MOST_LOGPROBS = 20

NEUTRAL = frozenset(
    (
        *("frequency_penalty", "presence_penalty", "logit_bias", "tools", "tool_choice", "functions", "function_call"),
        *("response_format", "modalities", "audio", "prediction", "web_search_options", "verbosity", "service_tier"),
        *("store", "best_of", "echo", "suffix"),
    )
)
"""Fields that clients write without wanting anything by it; values that want something are refused."""


class Body(BaseModel):
    """Strict: "5" is no number, and a field that nobody knows is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """A message; what a model thought earlier may come back with its answer, and is left out."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    annotations: Nothing | None = None
    audio: None = None
    tool_calls: Nothing | None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """Its content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Thinking(Body):
    """How to think: minseek's strategies, and the budget of other APIs."""

    type: Literal["enabled", "disabled"] | None = None
    strategy: Literal["min-seek", "budget-forcing", "standard"] | None = None
    thoughts: Tokens | Literal["unbounded"] | None = None
    keep: Count | None = None
    rule: Annotated[KeepRule | None, BeforeValidator(canonical_rule)] = None
    answer: AnswerForm | None = None
    stop_when_stable: Annotated[int, Field(ge=2)] | None = None
    vote: bool | None = None
    budget_tokens: Tokens | None = None
    answer_tokens: Count | None = None
    min_thought_tokens: Count | None = None
    max_thought_tokens: Count | None = None


class StreamOptions(Body):
    """What a stream tells besides."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Body):
    """Text, as it comes."""

    type: Literal["text"]


class Shared(Body):
    """What both kinds of requests have."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Count | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    user: str | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None

    @property
    def choices(self) -> int:
        """How many answers are wanted of each prompt."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Shared):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    reasoning_effort: Effort | None = None
    thinking_token_budget: Tokens | None = None
    thinking_budget_tokens: Tokens | None = None
    reasoning_budget_tokens: Tokens | None = None
    thinking: Thinking | None = None
    metadata: dict[str, str] | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None


class CompletionRequest(Shared):
    """The body of ``POST /v1/completions``."""

    prompt: Text | list[Text] | list[TokenId] | list[list[TokenId]]
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
