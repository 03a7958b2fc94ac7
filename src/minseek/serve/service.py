"""What the routes share: the model, its worker, and what holds for every request."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from minseek.engine import BatchPlan, Engine
from minseek.errors import InputError
from minseek.models import Model
from minseek.protocol.fields import FieldError, shown
from minseek.serve.defaults import defaults_of
from minseek.serve.engine_thread import EngineThread
from minseek.serve.errors import ApiError
from minseek.serve.metrics import Metrics
from minseek.serve.settings import Settings

T = TypeVar("T")
_LOG = logging.getLogger("minseek.serve")
_PREPARED_AT_ONCE = 2  # requests whose prompts are made into tokens at the same time


class Service:
    """A model in slots.

    Attributes
    ----------
    name : str
        The model's, as the server tells it: of a directory or file its own name, not where it lies.
    defaults : Defaults
        How a chat thinks that does not say how.
    worker, metrics
        See there.
    """

    def __init__(self, model: Model, plan: BatchPlan, settings: Settings) -> None:
        if plan.policy is not None:
            raise InputError(
                f"a server's slots hold whole conversations, and {plan.policy.name} would evict from them: "
                "make the plan with policy=None"
            )
        self.model, self.plan, self.settings = model, plan, settings
        self.name = Path(model.name).name if Path(model.name).exists() else model.name
        self.created = int(time.time())
        self.token_bytes = model.token_bytes()
        self.defaults = defaults_of(model, plan, settings)
        engine = Engine(model, plan)
        self.metrics = Metrics()
        self.worker = EngineThread(engine, settings.queue, self.metrics.after_pass)
        self.metrics.watch(engine, self.worker, self.token_bytes)
        self._preparing = asyncio.Semaphore(_PREPARED_AT_ONCE)

    def check_model(self, asked: str | None) -> None:
        """Refuse a model that is not the loaded one.

        Raises
        ------
        ApiError
            404, `model_not_found`.
        """
        names = {self.name, self.model.name, self.name.removesuffix(".gguf"), self.model.name.removesuffix(".gguf")}
        if asked is not None and asked not in names:
            raise ApiError(
                404,
                f"there is no model {shown(asked)} here: {self.name!r} is the one that is loaded",
                param="model",
                code="model_not_found",
            )

    def check_choices(self, count: int, param: str) -> None:
        """Refuse more choices than could ever be taken at once."""
        most = self.plan.slots + self.settings.queue
        if count > most:
            raise FieldError(f"{param} asks for {count} choices, and at most {most} are taken at once", param=param)

    async def prepare(self, make: Callable[[], T]) -> T:
        """Do the work before a request can be taken, such as tokenising its prompt, beside the loop."""
        async with self._preparing:
            return await asyncio.to_thread(make)

    def log_texts(self, route: str, texts: Sequence[str]) -> None:
        """Log what a request says, if the server was told to."""
        if self.settings.log_prompts:
            _LOG.info("%s %s", route, json.dumps(list(texts), ensure_ascii=False))
