"""The page: static files from the wheel under a strict content security policy, and what they need to know."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from a1agent.prompts import BOXED_INSTRUCTION
from a1agent.server.service import Service

__all__ = ["CONTENT_POLICY", "files", "router"]

_FOLDER = Path(__file__).parent / "page"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
"""What a browser lets the page do: load its own files, talk to its own server, and nothing else."""

_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2"}

for _ending, _type in _TYPES.items():  # what a machine's own table says of them differs, and browsers insist
    mimetypes.add_type(_type, _ending)


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def files() -> StaticFiles:
    """What stands under `/page`."""
    return _Files(directory=_FOLDER, check_dir=False)


def router(service: Service) -> APIRouter:
    """The page itself, and its configuration; neither needs a key."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/", response_model=None)
    async def page() -> Response:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS, media_type="text/html")

    @routes.get("/page/config")
    async def config() -> dict[str, Any]:
        options, settings = service.agent.options, service.settings
        # Paths and hosts are not for everybody who finds the page.
        draft, target = (None, None) if settings.keys else service.agent.pair.names
        return {
            "model": settings.name,
            "draft": draft,
            "target": target,
            "needs_key": bool(settings.keys),
            "instruction": BOXED_INSTRUCTION,
            "options": {
                "chains": min(options.chains, settings.max_chains),
                "turns": min(options.turns, settings.max_turns),
                "rejection_rate": options.rejection_rate,
                "coverage": options.coverage,
            },
            "caps": {"chains": settings.max_chains, "turns": settings.max_turns},
        }

    return routes
