"""`a1 mcp`: the MCP server over stdio, or over streamable HTTP behind the same guard as `a1 serve`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from a1agent import A1
from a1agent.cli.calls import Loop, make_agent
from a1agent.cli.flags import with_settings
from a1agent.cli.settings import Settings
from a1agent.errors import InvalidOption
from a1agent.server import ServerSettings, logs, read_keys
from a1agent.server.guard import Guard
from a1agent.server.run import Server, bind, config_of, opened_here
from mcp.server.transport_security import TransportSecuritySettings

from a1agent_mcp.ending import Ending
from a1agent_mcp.server import Limits, create_server

__all__ = ["http_server", "register"]


def register(app: typer.Typer) -> None:
    """Adds the command to `a1`."""
    app.command("mcp")(with_settings(mcp))


def mcp(
    settings: Settings,
    http: Annotated[bool, typer.Option("--http", help="serve streamable HTTP at /mcp instead of stdio")] = False,
    host: Annotated[
        str, typer.Option("--host", help="address to listen on; another than this machine's needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="port to listen on; 0: a free one")] = 8001,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", help="file of name=key lines (also: A1_API_KEYS, commas between)")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option("--allow-host", help="another name of this server")] = None,
    calls: Annotated[int, typer.Option("--calls", min=1, help="calls that run at a time")] = 4,
    waiting: Annotated[
        int, typer.Option("--waiting", min=0, help="calls that may wait, shared by API keys; more are errors")
    ] = 64,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="most seconds of a call, waiting included")
    ] = 300.0,
) -> int:
    """Serve the tool `reason` to MCP clients."""
    if max_seconds <= 0:
        raise InvalidOption(f"--max-seconds is {max_seconds}", "use a number above 0")
    chosen = ServerSettings(keys=read_keys(api_keys), allowed_hosts=(*(allow_host or ()), host))
    limits = Limits(calls=calls, waiting=waiting, clients=len(chosen.keys), seconds=max_seconds)
    agent = make_agent(settings)
    if http:
        asyncio.run(_http(agent, limits, chosen, host, port))
        return 0
    with Loop() as loop:
        loop.run(_stdio(agent, limits))
    return 0


def http_server(agent: A1, limits: Limits, settings: ServerSettings) -> Server:
    """What serves streamable HTTP behind the guard, which checks Host, Origin, key, kind and size of the body."""
    checked_before = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    queue = limits.queue()
    app = create_server(agent, limits, queue).streamable_http_app(transport_security=checked_before)
    ending = Ending(app, settings.grace_s, queue.close)
    return Server(config_of(Guard(ending, settings, _ignore), settings), ending)


async def _stdio(agent: A1, limits: Limits) -> None:
    async with agent:
        serving = asyncio.create_task(create_server(agent, limits).run_stdio_async())
        try:
            await asyncio.shield(serving)
        finally:  # not awaited: its thread waits for a line of stdin, whatever ends it
            serving.cancel()


async def _http(agent: A1, limits: Limits, settings: ServerSettings, host: str, port: int) -> None:
    with bind(host, port, settings) as listener:
        async with agent:
            await agent.load()
            logs.configure()
            print(f"serving MCP on {opened_here(listener)}/mcp", file=sys.stderr, flush=True)
            await http_server(agent, limits, settings).serve(sockets=[listener])


def _ignore(*_: Any) -> None:
    pass
