"""How a chat thinks that does not say how, and whether that fits into a slot at all."""

from __future__ import annotations

from minseek.engine import BatchPlan
from minseek.errors import InputError
from minseek.models import Model
from minseek.reasoning.options import RunOptions
from minseek.reasoning.run_plan import DoesNotFitError
from minseek.reasoning.thinking_job import ThinkingJob
from minseek.serve.bodies import ChatRequest, Message
from minseek.serve.settings import Settings
from minseek.serve.thinking import EFFORTS, Defaults, Effort, thinking_of

_SHORTEST = "a"  # a question, as short as one can be


def defaults_of(model: Model, plan: BatchPlan, settings: Settings) -> Defaults:
    """What holds for chats that do not say how to think.

    Raises
    ------
    InputError
        If the settings name a strategy that no chat has the room for, so that all of them would be refused.
    """
    most = settings.max_completion_tokens
    if settings.strategy is None:
        return Defaults(EFFORTS["low" if model.thinking.open else "none"], plan.slot.capacity, most)
    defaults = Defaults(Effort(settings.strategy), plan.slot.capacity, most)
    strategy, limits = thinking_of(ChatRequest(messages=[Message(role="user", content=_SHORTEST)]), defaults)
    try:
        ThinkingJob(model, _SHORTEST, RunOptions(strategy=strategy, limits=limits), plan=plan)
    except DoesNotFitError as error:
        raise InputError(
            f"with this strategy the shortest chat needs at least {error.needed} tokens, and a slot holds "
            f"{plan.slot.capacity}: give fewer thoughts, or larger slots"
        ) from None
    return defaults
