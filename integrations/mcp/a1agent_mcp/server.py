"""The MCP server: the tool `reason`, and the resource `a1://calls` with the statistics of past calls."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from a1agent import A1, A1Error, RejectionStats, Result, __version__
from a1agent.effort import preset
from a1agent.errors import InvalidOption, nearest
from a1agent.events import Event, StepAccepted, StepTakenOver, VoteClosed
from a1agent.server.admission import Admission
from a1agent.server.errors import ApiError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

__all__ = ["CALLS", "Limits", "Reasoned", "create_server"]

CALLS = "a1://calls"
"""Address of the resource."""

_INSTRUCTIONS = (
    "The tool `reason` lets two local models think a question through: a small one writes in parallel chains, a large "
    "one takes over the share of steps that `rate` sets, and the chains vote. `confidence` is the share of chains that "
    "agree; "
    "ask again with a higher effort where it is low. That the answer is right is not guaranteed."
)

_ARGUMENTS = ("question", "effort", "rate")

_TENANT: ContextVar[str] = ContextVar("tenant", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What calls may take: `calls` at a time, `seconds` each, waiting included. The last `kept` are in the resource.

    `waiting` more may wait; of `clients` (API keys) each may always have its share of them, and they take turns.
    """

    calls: int = 4
    waiting: int = 64
    clients: int = 1
    seconds: float = 300.0
    kept: int = 100

    def queue(self) -> Admission:
        """Where calls wait for their turn."""
        return Admission(self.calls, self.waiting, self.clients)


class Reasoned(BaseModel):
    """What a call gives back."""

    answer: str | None = Field(description="the voted answer; null when no chain stated one")
    confidence: float = Field(description="share of the started chains that agree with it")
    text: str = Field(description="the winning chain's message")
    complete: bool = Field(description="false when a limit cut the call short")
    notices: list[str] = Field(description="what a person should know about this answer")
    stats: RejectionStats


@dataclass(slots=True)
class _Calls:
    """Past calls of each client, newest last. Questions are not kept."""

    kept: int
    by_tenant: dict[str, deque[dict[str, Any]]] = field(default_factory=dict[str, deque[dict[str, Any]]])

    def add(self, tenant: str, result: Result) -> None:
        """Keeps what a call did."""
        own = self.by_tenant.setdefault(tenant, deque(maxlen=self.kept))
        at = datetime.now(UTC).isoformat(timespec="seconds")
        own.append({"at": at, "confidence": result.confidence, "stats": result.stats.model_dump(mode="json")})

    def text(self, tenant: str) -> str:
        """The calls as JSON."""
        return json.dumps(list(self.by_tenant.get(tenant, ())))


def create_server(agent: A1, limits: Limits | None = None, queue: Admission | None = None) -> MCPServer[None]:
    """A server over `agent`, which stays the caller's to close; for any transport of the SDK.

    Who wants to close the queue before the server ends gives one of the `limits`.

    Over HTTP each API key has a calibration and past calls of its own.
    """
    chosen = limits or Limits()
    calls, line = _Calls(chosen.kept), queue or chosen.queue()
    server: MCPServer[None] = MCPServer(
        "a1",
        version=__version__,
        instructions=_INSTRUCTIONS,
        log_level="WARNING",
        middleware=[_know_tenant, _know_arguments],
    )

    @server.tool(
        title="Reason with two models",
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )
    async def reason(
        question: Annotated[str, Field(min_length=1, description="what to think about, whole by itself")],
        ctx: Context[None, Any],
        effort: Annotated[
            Literal["low", "medium", "high"], Field(description="how many chains and turns, and the rate")
        ] = "medium",
        rate: Annotated[
            float | None, Field(ge=0, le=1, description="share of steps the large model takes over; null: by effort")
        ] = None,
    ) -> Annotated[CallToolResult, Reasoned]:
        """Think a question through with a small and a large model, in parallel chains that vote."""
        options = preset(effort, agent.options)
        if rate is not None:
            options["rejection_rate"] = rate
        tenant = _TENANT.get()
        try:
            async with _place(line, tenant, chosen.seconds) as left_s:
                result = await _follow(agent, question, tenant, {**options, "timeout_s": left_s}, ctx)
        except (A1Error, ApiError) as error:
            raise ToolError(str(error)) from error
        calls.add(tenant, result)
        await ctx.notify_resource_updated(CALLS)
        return _answer(result)

    @server.resource(CALLS, name="calls", title="Statistics of past calls", mime_type="application/json")
    def past() -> str:
        """When each call was, how sure it was, and its statistics; newest last."""
        return calls.text(_TENANT.get())

    return server


@asynccontextmanager
async def _place(queue: Admission, tenant: str, seconds: float) -> AsyncGenerator[float]:
    """A place among the calls that run; gives the seconds that are left of the call's. Raises `ApiError`."""
    came = time.perf_counter()
    await queue.enter(tenant, seconds)
    began = time.perf_counter()
    try:
        yield max(0.001, seconds - (began - came))
    finally:
        queue.leave(time.perf_counter() - began)


async def _follow(agent: A1, question: str, tenant: str, options: Mapping[str, Any], ctx: Context[None, Any]) -> Result:
    """Runs a call and tells each turn that is done."""
    turns, result = 0, None
    async with aclosing(agent.astream(question, tenant=tenant, **options)) as events:
        async for event in events:
            if isinstance(event, VoteClosed):
                result = event.result
            elif (told := _told(event)) is not None:
                turns += 1
                await ctx.report_progress(turns, message=told)
    assert result is not None  # the stream ends with its result, or raises
    return result


def _told(event: Event) -> str | None:
    match event:
        case StepAccepted():
            return f"chain {event.chain + 1}, turn {event.turn + 1}: drafted and accepted"
        case StepTakenOver():
            return f"chain {event.chain + 1}, turn {event.turn + 1}: taken over by the target"
        case _:
            return None


def _answer(result: Result) -> CallToolResult:
    reasoned = Reasoned(
        answer=result.answer,
        confidence=result.confidence,
        text=result.text,
        complete=result.complete,
        notices=list(result.notices),
        stats=result.stats,
    )
    shown = result.text if result.answer is None else f"{result.text}\n\nAnswer: {result.answer}"
    return CallToolResult(
        content=[TextContent(type="text", text="\n\n".join((shown, _sureness(result), *result.notices)))],
        structured_content=reasoned.model_dump(mode="json"),
    )


def _sureness(result: Result) -> str:
    """What the instructions tell a model to act on, for those that see the text only."""
    stats = result.stats
    confidence = f"Confidence: {result.confidence:.2f} (the share of {stats.chains_started} chains that agree)"
    if stats.observed_rate is None:
        return confidence
    return f"{confidence}. Rate: {stats.observed_rate:.2f} of the verified steps (asked for {stats.asked_rate:.2f})"


async def _know_tenant(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Keeps the name of the API key that a request came with: the guard of the HTTP transport has put it there."""
    _TENANT.set(getattr(getattr(ctx.request, "state", None), "key", ""))
    return await call_next(ctx)


async def _know_arguments(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    """Refuses arguments that the tool has not, which the SDK passes over: a misspelled rate would be another one."""
    asked = ctx.params or {} if ctx.method == "tools/call" else {}
    given = asked.get("arguments")
    # What is no object the SDK refuses by itself.
    for name in cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else ():
        if name not in _ARGUMENTS:
            error = InvalidOption(f"the tool has no argument {name[:100]!r}", nearest(name, _ARGUMENTS))
            return CallToolResult(content=[TextContent(type="text", text=str(error))], is_error=True)
    return await call_next(ctx)
