"""Application: routes and middleware."""

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
from minseek.protocol.requests import ChatRequest, CompletionRequest
from minseek.protocol.responses import ChatResponse, CompletionResponse, ErrorResponse
from minseek.serve.chat import ROUTE as CHAT
from minseek.serve.chat import chat
from minseek.serve.completions import ROUTE as COMPLETIONS
from minseek.serve.completions import complete
from minseek.serve.equivalent_requests import EquivalentRequests
from minseek.serve.errors import HANDLERS
from minseek.serve.middleware import AccessLog, ApiKeyCheck, BodyLimit, HostCheck
from minseek.serve.model_entry import model_entry
from minseek.serve.page_files import PAGE_PATHS, add_page
from minseek.serve.schemas import Health, ModelEntry, ModelList
from minseek.serve.server_settings import ServerSettings
from minseek.serve.service import Service

_RESPONSE_OR_STREAM = {
    "description": 'The complete response, or with "stream": true server-sent events whose data are its chunks',
    "content": {"text/event-stream": {}},  # a schema would be that of an event, which OpenAPI 3.1 cannot describe
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "A field is wrong or not supported; it is named"},
    404: {"model": ErrorResponse, "description": "Another model than the loaded one"},
    408: {"model": ErrorResponse, "description": "The body did not arrive in time"},
    413: {"model": ErrorResponse, "description": "The body is too long"},
    429: {"model": ErrorResponse, "description": "The queue is full; Retry-After says when to try again"},
    500: {"model": ErrorResponse, "description": "The model failed to answer"},
    503: {"model": ErrorResponse, "description": "The server is stopping"},
    "4XX": {"model": ErrorResponse, "description": "Any other request that is refused"},
}


def create_app(model: Model, plan: BatchPlan, settings: ServerSettings | None = None) -> FastAPI:
    """Build the server as an ASGI application and allocate its slots.

    Parameters
    ----------
    model : Model
        From `minseek.load`.
    plan : BatchPlan
        From `minseek.plan`, with ``policy=None``: each slot holds a whole conversation.
    settings : ServerSettings, optional

    Returns
    -------
    FastAPI

    Raises
    ------
    InputError
        If the plan evicts, or no chat fits into a slot with the default strategy.
    RuntimeError
        If the slots cannot be allocated.
    """
    settings = settings or ServerSettings()
    service = Service(model, plan, settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine_thread.end)

    app = FastAPI(
        title="minseek",
        version=__version__,
        description="Reasoning in a memory budget that is fixed beforehand, behind OpenAI's API.",
        lifespan=life,
        docs_url=None,  # those pages load their scripts from elsewhere
        redoc_url=None,
        exception_handlers={**HANDLERS},
        redirect_slashes=False,
        strict_content_type=True,  # otherwise pages of other origins could send JSON without a preflight request
    )
    app.state.service = service
    _add_routes(app, service)
    add_page(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, seconds=settings.body_seconds)
    own: dict[str, str | None] = dict.fromkeys(("/health", *PAGE_PATHS))
    if settings.metrics_key is not None:
        own["/metrics"] = settings.metrics_key
    app.add_middleware(ApiKeyCheck, key=settings.api_key, own=own)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's client sends x-stainless-*
            expose_headers=["Retry-After"],
        )
    if settings.hosts is not None:
        app.add_middleware(HostCheck, hosts=settings.hosts)
    app.add_middleware(EquivalentRequests)
    app.add_middleware(AccessLog, metrics=service.metrics)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    errors = dict(_ERRORS)
    if service.settings.api_key:
        errors[401] = {"model": ErrorResponse, "description": "The API key is missing or wrong"}

    # `ApiKeyCheck` checks the key, before a body is read; this documents it in the OpenAPI description.
    guarded = APIRouter(dependencies=[Depends(HTTPBearer(auto_error=False))] if service.settings.api_key else [])

    @guarded.post(CHAT, response_model=ChatResponse, responses={**errors, 200: _RESPONSE_OR_STREAM})
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a chat; reasoning_effort, a token budget or `thinking` control its reasoning."""
        return await chat(request, service, body)

    @guarded.post(COMPLETIONS, response_model=CompletionResponse, responses={**errors, 200: _RESPONSE_OR_STREAM})
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue texts without a chat template."""
        return await complete(request, service, body)

    known = {status: errors[status] for status in (401, "4XX") if status in errors}

    @guarded.get("/v1/models", response_model=ModelList, responses=known)
    async def models() -> ModelList:
        """List the loaded model, its slots and its memory."""
        return ModelList(data=[model_entry(service)])

    @guarded.get("/v1/models/{name:path}", response_model=ModelEntry, responses={**known, 404: errors[404]})
    async def one_model(name: str) -> ModelEntry:
        """Return the loaded model by its name."""
        service.check_model(name)
        return model_entry(service)

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Return 200 while requests are accepted."""
        state = service.engine_thread.state
        response.status_code = 200 if state == "ok" else 503
        return Health(status=state)

    @guarded.get("/metrics", response_class=Response, responses={**known, 200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(guarded)
