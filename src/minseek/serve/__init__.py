"""OpenAI-compatible server: many clients and one engine in a fixed memory budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minseek.lazy import lazy_names

if TYPE_CHECKING:
    from minseek.serve.app import create_app
    from minseek.serve.server_settings import ServerSettings
    from minseek.serve.slot_plan import plan_slots

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "minseek.serve.app": ("create_app",),
        "minseek.serve.server_settings": ("ServerSettings",),
        "minseek.serve.slot_plan": ("plan_slots",),
    },
)

__all__ = ["ServerSettings", "create_app", "plan_slots"]
