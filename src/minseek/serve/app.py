"""The application: routes, and what stands before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware

from minseek import __version__
from minseek.engine import BatchPlan
from minseek.models import Model
from minseek.serve.bodies import ChatRequest, CompletionRequest
from minseek.serve.chat import ROUTE as CHAT
from minseek.serve.chat import chat
from minseek.serve.completions import ROUTE as COMPLETIONS
from minseek.serve.completions import complete
from minseek.serve.errors import HANDLERS
from minseek.serve.middleware import AccessLog, ApiKeyCheck, BodyLimit, HostCheck
from minseek.serve.models import model_entry
from minseek.serve.page_files import PAGE_PATHS, add_page
from minseek.serve.replies import ChatResponse, CompletionResponse, ErrorReply, HealthReply, ModelReply, ModelsReply
from minseek.serve.service import Service
from minseek.serve.settings import Settings

_STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "A field is wrong or cannot be honoured; it is named"},
    404: {"model": ErrorReply, "description": "Another model than the loaded one"},
    413: {"model": ErrorReply, "description": "The body is too long"},
    429: {"model": ErrorReply, "description": "The queue is full; Retry-After says when to try again"},
    500: {"model": ErrorReply, "description": "The model failed to answer"},
    503: {"model": ErrorReply, "description": "The server is stopping"},
    "4XX": {"model": ErrorReply, "description": "Any other request that is refused"},
}


def create_app(model: Model, plan: BatchPlan, settings: Settings | None = None) -> FastAPI:
    """The server as an ASGI application; its slots are allocated here, all at once.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    plan : BatchPlan
        From `minseek.plan`, with ``policy=None``: each slot holds a whole conversation.
    settings : Settings, optional

    Raises
    ------
    InputError
        If the plan evicts, or no chat has the room for the default strategy.
    RuntimeError
        If the slots cannot be allocated.
    """
    settings = settings or Settings()
    service = Service(model, plan, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.end)

    app = FastAPI(
        title="minseek",
        version=__version__,
        description="Reasoning in a memory budget that is fixed beforehand, behind OpenAI's API.",
        lifespan=life,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        exception_handlers={**HANDLERS},
        strict_content_type=True,  # without a type, pages of other origins could send JSON and not be asked first
    )
    app.state.service = service
    _add_routes(app, service)
    add_page(app)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    if settings.api_key:
        app.add_middleware(ApiKeyCheck, key=settings.api_key, free=("/health", *PAGE_PATHS))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's own client sends headers of its own, x-stainless-*
            expose_headers=["Retry-After"],
        )
    if settings.hosts is not None:
        app.add_middleware(HostCheck, hosts=settings.hosts)
    app.add_middleware(AccessLog, metrics=service.metrics)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    refusals = dict(_REFUSALS)
    if service.settings.api_key:
        refusals[401] = {"model": ErrorReply, "description": "The API key is missing or wrong"}

    # The key is checked by `ApiKeyCheck`, before a body is read; this says so in the description.
    guarded = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))] if service.settings.api_key else [])

    @guarded.post(CHAT, response_model=ChatResponse, responses={**refusals, 200: _STREAM})
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a chat; how to think is said by reasoning_effort, a budget of tokens, or `thinking`."""
        return await chat(request, service, body)

    @guarded.post(COMPLETIONS, response_model=CompletionResponse, responses={**refusals, 200: _STREAM})
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue texts as they stand."""
        return await complete(request, service, body)

    known = {status: refusals[status] for status in (401, "4XX") if status in refusals}

    @guarded.get("/v1/models", response_model=ModelsReply, responses=known)
    async def models() -> ModelsReply:
        """The model that is loaded, its slots and its memory."""
        return ModelsReply(data=[model_entry(service)])

    @guarded.get("/v1/models/{name:path}", response_model=ModelReply, responses={**known, 404: refusals[404]})
    async def one_model(name: str) -> ModelReply:
        """The same, by its name."""
        service.check_model(name)
        return model_entry(service)

    @app.get("/health", response_model=HealthReply, responses={503: {"model": HealthReply}})
    async def health(response: Response) -> HealthReply:
        """Whether requests are taken."""
        state = service.worker.state
        response.status_code = 200 if state == "ok" else 503
        return HealthReply(status=state)

    @guarded.get("/metrics", response_class=Response, responses={**known, 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(guarded)
