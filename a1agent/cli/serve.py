"""`a1 serve`: the OpenAI-compatible server, and the page."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from a1agent.cli.calls import make_agent
from a1agent.cli.settings import Settings
from a1agent.errors import MissingExtra

__all__ = ["serve"]


def serve(
    settings: Settings,
    host: Annotated[
        str, typer.Option("--host", help="address to listen on; another than this machine's needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port to listen on; 0: a free one")] = 8000,
    name: Annotated[str, typer.Option("--name", help="the model name that clients ask for")] = "a1",
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", help="file of name=key lines (also: A1_API_KEYS, commas between)")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option("--allow-host", help="another name of this server")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow-origin", help="a site whose pages may call it (CORS)")
    ] = None,
    max_n: Annotated[int, typer.Option("--max-n", min=1, help="most answers of a request")] = 8,
    max_chains: Annotated[int, typer.Option("--max-chains", min=1, help="most chains of a request, over all n")] = 64,
    max_turns: Annotated[int, typer.Option("--max-turns", min=1, help="most turns of a chain")] = 64,
    cap_tokens: Annotated[int, typer.Option("--cap-tokens", min=1, help="most tokens of a chain")] = 32768,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="most seconds of a request, waiting included")
    ] = 300.0,
    max_body_bytes: Annotated[int, typer.Option("--max-body-bytes", min=1, help="largest request")] = 2**20,
    running: Annotated[int, typer.Option("--running", min=1, help="requests that run at a time")] = 16,
    waiting: Annotated[int, typer.Option("--waiting", min=0, help="requests that may wait; more get a 429")] = 64,
    grace: Annotated[float, typer.Option("--grace", help="seconds requests may still run at shutdown")] = 10.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="log bodies and errors whole")] = False,
) -> int:
    """Serve OpenAI's API and a page to watch the chains think.

    On this machine alone unless told otherwise. The log is JSON lines on stderr. Ctrl-C or SIGTERM ends it in order.
    """
    found = _server()
    chosen = found.ServerSettings(
        name=name,
        keys=found.read_keys(api_keys),
        allowed_hosts=(*(allow_host or ()), host),
        allowed_origins=tuple(allow_origin or ()),
        max_n=max_n,
        max_chains=max_chains,
        max_turns=max_turns,
        max_tokens=cap_tokens,
        max_seconds=max_seconds,
        max_body_bytes=max_body_bytes,
        running=running,
        waiting=waiting,
        grace_s=grace,
        log_prompts=log_prompts,
    )
    asyncio.run(_run(settings, chosen, host, port))
    return 0


def _server() -> Any:
    from a1agent import server

    try:
        import uvicorn  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError:
        raise MissingExtra("the server", "server") from None
    return server


async def _run(settings: Settings, chosen: Any, host: str, port: int) -> None:
    from a1agent.server.run import announced, bind, opened_here, serve

    with bind(host, port, chosen) as listener:
        agent = make_agent(settings)
        try:
            print(f"loading {agent.pair}", file=sys.stderr, flush=True)
            await serve(agent, chosen, listener, lambda: _announce(announced(listener), opened_here(listener)))
        finally:
            await agent.aclose()


def _announce(address: str, here: str) -> None:
    everywhere = "" if address == here else f"{address}, here "
    print(f"serving on {everywhere}{here} (the page), {here}/v1 (the API)", flush=True)
