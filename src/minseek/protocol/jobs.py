"""Jobs of the engine for requests; one that cannot be run is refused with the name of the wrong field."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from minseek.decode import Sampling
from minseek.engine import BatchPlan
from minseek.errors import InputError
from minseek.models import Model
from minseek.protocol.fields import FieldError
from minseek.protocol.requests import ChatRequest, CompletionRequest
from minseek.reasoning import Event, Limits, RunOptions, Strategy
from minseek.reasoning.run_plan import DoesNotFitError
from minseek.reasoning.thinking_job import ThinkingJob


def make_thinking_job(
    model: Model,
    plan: BatchPlan,
    body: ChatRequest,
    *,
    strategy: Strategy,
    limits: Limits,
    sampling: Sampling,
    stop: Sequence[str],
    on_event: Callable[[Event], None],
) -> ThinkingJob:
    """Make the reasoning job of one choice of a chat.

    Raises
    ------
    FieldError
        If the conversation does not fit into a slot, or the model's template refuses it.
    """
    options = RunOptions(strategy=strategy, sampling=sampling, limits=limits, stop=stop, logprobs=body.num_logprobs)
    try:
        return ThinkingJob(model, body.conversation, options, plan=plan, on_event=on_event)
    except DoesNotFitError as error:
        raise _does_not_fit(error, plan.slot.capacity) from None
    except InputError as error:
        raise FieldError(str(error), param="messages") from None


def encode_prompts(model: Model, body: CompletionRequest) -> list[list[int]]:
    """Return the tokens of each of a completion's prompts.

    Raises
    ------
    FieldError
        If a prompt has none, or one is outside the vocabulary.
    """
    special = body.add_special_tokens is not False
    return [_encode_prompt(model, prompt, add_special_tokens=special) for prompt in body.prompts]


def _encode_prompt(model: Model, prompt: str | Sequence[int], *, add_special_tokens: bool) -> list[int]:
    tokens = (
        model.encode_prompt(prompt, add_special_tokens=add_special_tokens) if isinstance(prompt, str) else list(prompt)
    )
    if not tokens:
        raise FieldError("the prompt is empty: there is nothing to continue", param="prompt", code="empty_prompt")
    try:
        model.check_token_ids(tokens, " of the prompt")
    except InputError as error:
        raise FieldError(str(error), param="prompt") from None
    return tokens


def _does_not_fit(error: DoesNotFitError, slot_tokens: int) -> FieldError:
    if error.least <= slot_tokens:
        return FieldError(
            f"the prompt takes {error.prompt} tokens, the thoughts and the answer at least "
            f"{error.needed - error.prompt}, and a slot holds {slot_tokens}: ask for fewer or shorter thoughts, or "
            "keep fewer",
            param="thinking",
        )
    return FieldError(
        f"the prompt takes {error.prompt} tokens, and a slot holds {slot_tokens}, of which thinking and answer need at "
        f"least {error.least - error.prompt}: shorten it",
        param="messages",
        code="context_length_exceeded",
    )
