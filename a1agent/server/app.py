"""The application: `create_app(agent)` makes one server, and keeps nothing outside of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from a1agent import __version__
from a1agent.agent import A1
from a1agent.errors import A1Error
from a1agent.server import chat, document, page, responses
from a1agent.server.errors import ApiError, api_error_of
from a1agent.server.fields import invalid
from a1agent.server.guard import Guard
from a1agent.server.service import Service
from a1agent.server.settings import ServerSettings

__all__ = ["create_app"]


def create_app(agent: A1, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI application that serves `agent`, which stays the caller's to close.

    `app.state.service` is what its routes share; `service.drain()` begins an orderly end, and a server that does not
    call it lets streams run until they are done.
    """
    service = Service(agent, settings or ServerSettings())
    app = FastAPI(
        title="a1agent",
        version=__version__,
        description="Asynchronous test-time scaling behind OpenAI's API.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(service),
        responses=document.ERRORS,
    )
    app.state.service = service
    app.include_router(chat.router(service))
    app.include_router(responses.router(service))
    app.include_router(page.router(service))
    app.mount("/page", page.files())
    _add_state_of_server(app, service)
    _add_errors(app)
    if service.settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],  # OpenAI's clients send many of their own
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(Guard, settings=service.settings, count=service.metrics.request)
    return app


def _lifespan(service: Service) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        service.admission.open()
        loading = asyncio.create_task(service.load())
        try:
            yield
        finally:
            await service.aclose()
            loading.cancel()
            with suppress(asyncio.CancelledError, A1Error):
                await loading

    return lifespan


def _add_state_of_server(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", response_model=document.Health, summary="Whether the server runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", response_model=None, responses=document.READY, summary="Whether it would answer a question now")
    async def readyz() -> Response:
        problem = service.problem
        if problem is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": problem}, 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=document.METRICS, summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", response_model=document.Models, summary="The model served")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.model()]}

    @app.get("/v1/models/{name:path}", response_model=document.Model, summary="The model served, by name")
    async def model(name: str) -> dict[str, Any]:
        service.check_model(name)
        return service.model()


def _add_errors(app: FastAPI) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        told = api_error_of(error)
        request.state.error = told
        return JSONResponse(told.body, told.status, told.headers)

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await api_error(request, invalid(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await api_error(request, _of_http(request, error))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(A1Error, api_error)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)


def _of_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return ApiError(404, f"there is nothing at {request.url.path}", code="unknown_url")
    if error.status_code == 405:
        told = f"{request.method} is not served at {request.url.path}"
        return ApiError(405, told, code="method_not_allowed", headers=error.headers)
    return ApiError(error.status_code, "the body is no JSON that can be read", code="bad_json")
