"""State shared by the routes: the model, the engine thread, and checks of every request."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from minseek.engine import BatchPlan, Engine
from minseek.errors import InputError
from minseek.models import Model
from minseek.protocol.fields import FieldError
from minseek.protocol.validation import check_model_name, public_name
from minseek.serve.default_thinking import default_thinking
from minseek.serve.engine_thread import EngineThread
from minseek.serve.metrics import Metrics
from minseek.serve.server_settings import ServerSettings

T = TypeVar("T")
_LOG = logging.getLogger("minseek.serve")
_MAX_PREPARING = 2  # requests whose prompts are tokenized at the same time


class Service:
    """A model in the slots of a plan.

    Attributes
    ----------
    name : str
        Public name of the model; of a directory or file its last part.
    defaults : ThinkingDefaults
        Thinking of chats that do not choose.
    sampling : Sampling
        Default sampling, without a seed.
    engine_thread : EngineThread
    metrics : Metrics
    """

    def __init__(self, model: Model, plan: BatchPlan, settings: ServerSettings) -> None:
        if plan.policy is not None:
            raise InputError(
                f"a server's slots hold whole conversations, and {plan.policy.name} would evict from them: "
                "make the plan with policy=None"
            )
        self.model, self.plan, self.settings = model, plan, settings
        self.name = public_name(model.name)
        self.sampling = replace(settings.sampling, seed=None)
        self.created = int(time.time())
        self.token_bytes = model.token_bytes()
        self.defaults = default_thinking(model, plan, settings)
        engine = Engine(model, plan)
        self.metrics = Metrics()
        self.engine_thread = EngineThread(engine, settings.queue, self.metrics.after_pass)
        self.metrics.watch(engine, self.engine_thread, self.token_bytes)
        self._preparing = asyncio.Semaphore(_MAX_PREPARING)

    def check_model(self, requested: str | None) -> None:
        """Refuse a model other than the loaded one; see `check_model_name`."""
        check_model_name(requested, self.model.name)

    def check_choices(self, count: int, param: str) -> None:
        """Refuse more choices than slots and queue can ever hold."""
        limit = self.plan.slots + self.settings.queue
        if count > limit:
            raise FieldError(
                f"{param} requests {count} choices, and at most {limit} are accepted at once: send fewer", param=param
            )

    async def prepare(self, make: Callable[[], T]) -> T:
        """Run the work before a request is accepted, such as tokenizing its prompt, outside the event loop."""
        async with self._preparing:
            return await asyncio.to_thread(make)

    def log_texts(self, route: str, texts: Sequence[str]) -> None:
        """Log the texts of a request, if the settings say so."""
        if self.settings.log_prompts:
            _LOG.info("%s %s", route, json.dumps(list(texts), ensure_ascii=False))
