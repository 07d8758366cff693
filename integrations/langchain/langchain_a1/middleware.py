"""`A1Middleware`: sends turns of an agent to A1, keeps count of what that did, and escalates when the vote is split."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, NotRequired, cast

from a1agent import A1Error, InvalidOption, MissingExtra, SolveError
from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse, OmitFromInput, PrivateStateAttr
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langgraph.types import Command
from typing_extensions import TypedDict  # of `typing`'s, before Python 3.12, pydantic makes no schema

from langchain_a1._settings import SETTING_NAMES
from langchain_a1.chat_models import ChatA1

__all__ = ["A1Middleware", "A1State", "A1Totals"]

When = Callable[[ModelRequest[Any]], bool]

_FAILURES = (A1Error, OutputParserException)
_MISTAKES = (InvalidOption, MissingExtra)
_COUNTED = ("verifications", "rejections", "kept_tokens", "target_tokens")
_log = logging.getLogger(__name__)
_taken: ContextVar[bool] = ContextVar("whether a middleware around this one asks A1", default=False)


class A1Totals(TypedDict):
    """What A1 did in an agent so far. Tokens saved are `kept_tokens`: the draft wrote them, the target only read them.

    `calls`: turns that A1 was asked; `passed_on`: those that a middleware left to what comes after it; `escalations`:
    calls after which the agent's own model was asked. `disagreement`: mean share of chains, over the calls, that did
    not agree with the winner.
    """

    calls: int
    passed_on: int
    escalations: int
    verifications: int
    rejections: int
    kept_tokens: int
    target_tokens: int
    disagreement: float


def _added(before: A1Totals, new: A1Totals) -> A1Totals:
    """Totals with those of a further turn; what an agent starts with is empty."""
    left: dict[str, Any] = {**_nothing(), **before}
    right: dict[str, Any] = {**_nothing(), **new}
    total = {name: left[name] + right[name] for name in right}
    missed = sum(totals["disagreement"] * totals["calls"] for totals in (left, right))
    total["disagreement"] = missed / total["calls"] if total["calls"] else 0.0
    return cast("A1Totals", total)


def _merged(before: dict[str, int], new: dict[str, int]) -> dict[str, int]:
    return {**before, **new}


class A1State(AgentState[Any]):
    """The agent's state with what its middlewares of this kind keep in it; `a1_calls`: of this run, by their names."""

    a1: NotRequired[Annotated[A1Totals, OmitFromInput, _added]]
    a1_calls: NotRequired[Annotated[dict[str, int], PrivateStateAttr, _merged]]


class A1Middleware(AgentMiddleware[A1State, Any, Any]):
    """Sends model turns of an agent to A1: every turn, those that `when` picks, at most `budget` of them a run.

    With `escalate_below`, a turn whose vote had less confidence than this share, or on which A1 failed (a warning in
    the log says how), is asked of the agent's own model as well, whose answer then counts. Running totals stand in
    the agent's state under `"a1"`. Several may stand side by side, each with a `name`: the first that takes a turn has
    it.

    Raises `InvalidOption` for a chat model, a budget, a share or a rule that is none.
    """

    state_schema = A1State

    def __init__(
        self,
        chat: ChatA1 | None = None,
        *,
        when: When | None = None,
        budget: int | None = None,
        escalate_below: float | None = None,
        name: str = "A1Middleware",
    ) -> None:
        super().__init__()
        given: Any = chat
        if not isinstance(given, ChatA1 | None):
            raise InvalidOption(f"chat is {given!r}", "it is a ChatA1; the agent's own model is given to the agent")
        if budget is not None and not (_is_whole(budget) and budget >= 0):
            raise InvalidOption(f"budget is {budget!r}", "it is the number of turns of a run that may go to A1")
        if escalate_below is not None and not (_is_number(escalate_below) and 0 <= escalate_below <= 1):
            raise InvalidOption(f"escalate_below is {escalate_below!r}", "it is a confidence between 0 and 1")
        if when is not None and not callable(when):
            raise InvalidOption(f"when is {when!r}", "it is a function of the request that says whether A1 is asked")
        if inspect.iscoroutinefunction(when):
            raise InvalidOption("when is a coroutine function", "it must say at once: use a plain one")
        self.tools = []
        self._name = name
        self.chat = ChatA1() if chat is None else chat
        self._when = when
        self._budget = budget
        self._escalate_below = escalate_below

    @property
    def name(self) -> str:
        """What an agent knows it by."""
        return self._name

    def before_agent(self, state: A1State, runtime: Any) -> dict[str, Any]:
        """A run begins: its budget is whole."""
        return {"a1_calls": {self.name: 0}}

    async def abefore_agent(self, state: A1State, runtime: Any) -> dict[str, Any]:
        """As `before_agent`."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Asks A1, the agent's own model, or one after the other."""
        if not self._takes(request):
            return self._counted(request, handler(request), passed_on=not _taken.get())
        try:
            with _being_taken():
                answered = handler(self._to_a1(request))
        except _FAILURES as error:
            if not self._forgives(error):
                raise
            counts = _of_failed(error)
        else:
            counts = _of_answered(answered)
            if not self._is_split(answered):
                return self._counted(request, answered, **counts)
        return self._counted(request, handler(request), escalations=1, **counts)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """As `wrap_model_call`."""
        if not self._takes(request):
            return self._counted(request, await handler(request), passed_on=not _taken.get())
        try:
            with _being_taken():
                answered = await handler(self._to_a1(request))
        except _FAILURES as error:
            if not self._forgives(error):
                raise
            counts = _of_failed(error)
        else:
            counts = _of_answered(answered)
            if not self._is_split(answered):
                return self._counted(request, answered, **counts)
        return self._counted(request, await handler(request), escalations=1, **counts)

    def _takes(self, request: ModelRequest[Any]) -> bool:
        if _taken.get() or (self._budget is not None and self._calls(request) >= self._budget):
            return False
        return self._when is None or self._when(request)

    def _calls(self, request: ModelRequest[Any]) -> int:
        """Turns of this run that A1 was asked."""
        return cast("A1State", request.state).get("a1_calls", {}).get(self.name, 0)

    def _to_a1(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request for A1; settings of the agent's own model that A1 has too go with it."""
        known = {*SETTING_NAMES, "parallel_tool_calls"}
        settings = {key: value for key, value in request.model_settings.items() if key in known}
        return request.override(model=self.chat, model_settings=settings)

    def _forgives(self, error: Exception) -> bool:
        """Whether the agent's own model is asked instead; mistakes in how A1 was set up are never passed over."""
        if self._escalate_below is None or isinstance(error, _MISTAKES):
            return False
        _log.warning("A1 failed on a turn, which the agent's own model is asked instead: %s", error)
        return True

    def _is_split(self, answered: ModelResponse[Any]) -> bool:
        return self._escalate_below is not None and _confidence(answered) < self._escalate_below

    def _counted(
        self, request: ModelRequest[Any], response: ModelResponse[Any], **counts: float
    ) -> ExtendedModelResponse[Any]:
        """The response, with what the turn adds to the totals."""
        calls = self._calls(request) + int(counts.get("calls", 0))
        update = {"a1": {**_nothing(), **counts}, "a1_calls": {self.name: calls}}
        return ExtendedModelResponse(model_response=response, command=Command(update=update))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_whole(value)


@contextmanager
def _being_taken() -> Generator[None]:
    token = _taken.set(True)
    try:
        yield
    finally:
        _taken.reset(token)


def _metadata(answered: ModelResponse[Any]) -> dict[str, Any]:
    message = next((m for m in answered.result if isinstance(m, AIMessage)), None)
    return {} if message is None else message.response_metadata


def _confidence(answered: ModelResponse[Any]) -> float:
    return float(_metadata(answered).get("confidence") or 0.0)


def _of_answered(answered: ModelResponse[Any]) -> dict[str, float]:
    """What a turn that A1 answered adds."""
    stats: dict[str, Any] = _metadata(answered).get("a1") or {}
    return {"calls": 1, "disagreement": 1 - _confidence(answered), **{name: stats.get(name, 0) for name in _COUNTED}}


def _of_failed(error: Exception) -> dict[str, float]:
    """What a turn on which A1 failed adds: nobody agreed on anything, but tokens may have been spent."""
    cause = error if isinstance(error, SolveError) else error.__cause__
    stats = cause.stats if isinstance(cause, SolveError) else None
    return {"calls": 1, "disagreement": 1.0, **{name: getattr(stats, name, 0) for name in _COUNTED}}


def _nothing() -> A1Totals:
    return A1Totals(
        calls=0,
        passed_on=0,
        escalations=0,
        verifications=0,
        rejections=0,
        kept_tokens=0,
        target_tokens=0,
        disagreement=0.0,
    )
