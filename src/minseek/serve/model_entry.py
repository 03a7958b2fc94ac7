"""Entry of the loaded model in ``/v1/models``: its slots, their memory, and its thinking."""

from __future__ import annotations

from typing import Any

from minseek.models import example_question
from minseek.protocol.efforts import Effort, efforts_with
from minseek.serve.schemas import ModelEntry
from minseek.serve.service import Service


def model_entry(service: Service) -> ModelEntry:
    """Build the entry of the loaded model."""
    plan, slot = service.plan, service.plan.slot.capacity
    return ModelEntry(
        id=service.name,
        created=service.created,
        minseek={
            "kv_budget": plan.kv_bytes if plan.is_default_budget else plan.kv_budget,
            "slots": plan.slots,
            "slot_tokens": slot,
            "token_bytes": service.token_bytes,
            "context": service.model.max_positions,
            "queue": service.settings.queue,
            "example": example_question(service.name),
            "thinking_format": service.model.thinking.name,
            "default": _describe(service.defaults.effort, slot),
            "efforts": {
                name: _describe(effort, slot) for name, effort in efforts_with(service.defaults.strategy).items()
            },
        },
    )


def _describe(effort: Effort, slot_tokens: int) -> dict[str, Any]:
    return {
        "strategy": effort.strategy.name,
        "thoughts": effort.strategy.thoughts,
        "thinking_budget": effort.budget(slot_tokens),
    }
