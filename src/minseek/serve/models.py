"""What ``/v1/models`` tells of the model: its slots, their memory, and how it thinks."""

from __future__ import annotations

from typing import Any

from minseek.serve.replies import ModelReply
from minseek.serve.service import Service
from minseek.serve.thinking import EFFORTS, Effort


def model_entry(service: Service) -> ModelReply:
    """The entry of the loaded model."""
    plan, slot = service.plan, service.plan.slot.capacity
    return ModelReply(
        id=service.name,
        created=service.created,
        minseek={
            "kv_budget": plan.kv_budget or plan.kv_bytes,
            "slots": plan.slots,
            "slot_tokens": slot,
            "token_bytes": service.token_bytes,
            "context": service.model.max_positions,
            "queue": service.settings.queue,
            "thinking_format": service.model.thinking.name,
            "default": _told(service.defaults.effort, slot),
            "efforts": {name: _told(effort, slot) for name, effort in EFFORTS.items()},
        },
    )


def _told(effort: Effort, slot_tokens: int) -> dict[str, Any]:
    return {
        "strategy": effort.strategy.name,
        "thoughts": effort.strategy.thoughts,
        "thinking_budget": effort.budget(slot_tokens),
    }
