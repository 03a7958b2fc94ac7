"""Default thinking strategy for chat requests, validated against the slot size."""

from __future__ import annotations

from minseek.engine import BatchPlan
from minseek.errors import InputError
from minseek.models import Model
from minseek.protocol.efforts import Effort, default_effort
from minseek.protocol.requests import ChatRequest, Message
from minseek.protocol.thinking import ThinkingDefaults, parse_thinking
from minseek.reasoning import choose_default
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_plan import DoesNotFitError
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.server_settings import ServerSettings

_SHORTEST = "a"  # the shortest question


def default_thinking(model: Model, plan: BatchPlan, settings: ServerSettings) -> ThinkingDefaults:
    """Return the defaults for the thinking fields of chat requests.

    Raises
    ------
    InputError
        If no chat fits into a slot with the strategy of the settings, so that all of them would be refused.
    """
    own = choose_default(model).strategy
    slot, max_tokens = plan.slot.capacity, settings.max_completion_tokens
    if settings.strategy is None:
        return ThinkingDefaults(default_effort(bool(model.thinking.open)), slot, max_tokens, own)
    defaults = ThinkingDefaults(Effort(settings.strategy), slot, max_tokens, own)
    strategy, limits = parse_thinking(ChatRequest(messages=[Message(role="user", content=_SHORTEST)]), defaults)
    try:
        ThinkingJob(model, _SHORTEST, RunOptions(strategy=strategy, limits=limits), plan=plan)
    except DoesNotFitError as error:
        raise InputError(
            f"with this strategy the shortest chat needs at least {error.needed} tokens, and a slot holds {slot}: "
            "give fewer thoughts, or larger slots"
        ) from None
    return defaults
