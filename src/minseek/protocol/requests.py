"""Bodies of chat and completion requests: the fields of OpenAI's API that are honored, and ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from minseek.decode.logprobs import MAX_LOGPROBS
from minseek.decode.sampling import MAX_LOGIT_BIAS
from minseek.protocol.efforts import EffortName
from minseek.protocol.fields import parse_same
from minseek.reasoning.strategies import STRATEGIES, KeepRule, canonical_rule
from minseek.reasoning.strategy import AnswerForm


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold half a surrogate pair; no tokenizer takes it
        raise PydanticCustomError("unicode", "Input should be Unicode text without half a surrogate pair") from None
    return text


def _as_integer(value: Any) -> Any:
    """Convert 60.0 to 60: in JSON these are one number, and some clients write the former."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, AfterValidator(_check_unicode)]
Integer = Annotated[int, BeforeValidator(_as_integer)]
Count = Annotated[Integer, Field(ge=1)]
Tokens = Annotated[Integer, Field(ge=0)]
TokenId = Annotated[int, Field(ge=0)]
StopText = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_check_unicode)]
EmptyList = Annotated[list[Any], Field(max_length=0)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenKey = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,8})$")]
Bias = Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]
MAX_CHOICES = 8


def _check_strategy(name: object) -> object:
    """Refuse an unknown strategy; one may be registered after this module was imported."""
    if name is None or (isinstance(name, str) and name in STRATEGIES):
        return name
    *names, last = map(repr, STRATEGIES)
    raise PydanticCustomError(
        "literal_error", "Input should be {expected}", {"expected": f"{', '.join(names)} or {last}"}
    )


StrategyName = Annotated[
    str, BeforeValidator(_check_strategy), WithJsonSchema({"type": "string", "enum": list(STRATEGIES)})
]

NEUTRAL_FIELDS = frozenset(
    (
        *("tools", "tool_choice", "functions", "function_call", "response_format", "modalities", "audio", "prediction"),
        *("web_search_options", "verbosity", "service_tier", "store", "best_of", "echo", "suffix"),
    )
)
"""Fields that clients send with a value that has no effect; any other value is refused."""


class Body(BaseModel):
    """Strict object: "5" is no number, an unknown field is refused by name, and one that is null is absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}


class TextPart(Body):
    """Part of a message's content."""

    type: Literal["text"]
    text: Text
    cache_control: dict[str, Any] | None = None


class Message(Body):
    """Message of a conversation; earlier reasoning may come back with an answer and is left out.

    An answer without content is an empty one. A speaker's name is passed to the chat template.
    """

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: Text | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    annotations: EmptyList | None = None
    audio: None = None
    tool_calls: EmptyList | None = None
    function_call: None = None

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("role") == "assistant" and fields.get("content") is None:
            return {**fields, "content": ""}
        return fields

    @property
    def text(self) -> str:
        """Content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Thinking(Body):
    """Strategy and limits of thinking: minseek's options, and the budget of other APIs."""

    type: Literal["enabled", "disabled"] | None = None
    strategy: StrategyName | None = None
    thoughts: Tokens | Literal["unbounded"] | None = None
    keep: Count | None = None
    rule: Annotated[KeepRule | None, BeforeValidator(canonical_rule)] = None
    answer: AnswerForm | None = None
    stop_when_stable: Annotated[Integer, Field(ge=2)] | None = None
    vote: bool | None = None
    budget_tokens: Tokens | None = None
    answer_tokens: Count | None = None
    min_thought_tokens: Count | None = None
    max_thought_tokens: Count | None = None
    loop_detection: bool | None = None


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Body):
    """Plain text, the only format."""

    type: Literal["text"]


class Shared(Body):
    """Fields of both kinds of requests."""

    model: Text | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    max_new_tokens: Count | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[Integer, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[TokenKey, Bias] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def choices(self) -> int:
        """Number of answers to each prompt."""
        return self.n or 1

    @property
    def limit(self) -> int | None:
        """Maximum number of tokens to generate, under any of its names.

        Raises
        ------
        FieldError
            If two names have different values.
        """
        names = ("max_completion_tokens", "max_tokens", "max_new_tokens")
        limit: int | None = parse_same({name: getattr(self, name) for name in names})
        return limit

    @property
    def stop_texts(self) -> tuple[str, ...] | None:
        """Texts that end an answer, if given."""
        return None if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(Shared):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    reasoning_effort: EffortName | None = None
    thinking_token_budget: Tokens | None = None
    thinking_budget_tokens: Tokens | None = None
    reasoning_budget_tokens: Tokens | None = None
    thinking: Thinking | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None
    verbosity: Literal["medium"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    response_format: ResponseFormat | None = None
    tools: EmptyList | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: EmptyList | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None

    @property
    def num_logprobs(self) -> int | None:
        """Number of likely tokens to report with each token; None reports no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def conversation(self) -> list[dict[str, str]]:
        """Messages for a chat template; a developer's message is a system message."""
        return [
            {
                "role": "system" if message.role == "developer" else message.role,
                "content": message.text,
                **({} if message.name is None else {"name": message.name}),
            }
            for message in self.messages
        ]


class CompletionRequest(Shared):
    """Body of ``POST /v1/completions``."""

    prompt: Text | list[Text] | list[TokenId] | list[list[TokenId]]
    logprobs: Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[Integer, Field(ge=1, le=1)] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    add_special_tokens: bool | None = None

    @property
    def num_logprobs(self) -> int | None:
        """Number of likely tokens to report with each token; None reports no log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Prompts, each as text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [prompt for prompt in self.prompt if not isinstance(prompt, int)]
