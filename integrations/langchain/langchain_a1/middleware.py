"""`A1Middleware`: sends turns of an agent to A1, keeps count of what that did, and escalates when the vote is split."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NotRequired, TypedDict, cast

from a1agent import InvalidOption, SolveError
from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse, OmitFromInput, PrivateStateAttr
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from langgraph.types import Command

from langchain_a1._settings import SETTING_NAMES
from langchain_a1.chat_models import ChatA1

__all__ = ["A1Middleware", "A1State", "A1Totals"]

When = Callable[[ModelRequest[Any]], bool]
_FAILURES = (SolveError, OutputParserException)
_COUNTED = ("verifications", "rejections", "kept_tokens", "target_tokens")


class A1Totals(TypedDict):
    """What A1 did in an agent so far. Tokens saved are `kept_tokens`: the draft wrote them, the target only read them.

    `disagreement`: mean share of chains, over the calls, that did not agree with the winner.
    """

    calls: int
    passed_on: int
    escalations: int
    verifications: int
    rejections: int
    kept_tokens: int
    target_tokens: int
    disagreement: float


class A1State(AgentState[Any]):
    """The agent's state with what the middleware keeps in it."""

    a1: NotRequired[Annotated[A1Totals, OmitFromInput]]
    a1_calls: NotRequired[Annotated[int, PrivateStateAttr]]


class A1Middleware(AgentMiddleware[A1State, Any, Any]):
    """Sends model turns of an agent to A1: every turn, those that `when` picks, at most `budget` of them a run.

    With `escalate_below`, a turn whose vote had less confidence than this share, or on which A1 failed, is asked of the
    agent's own model as well, whose answer then counts. Running totals stand in the agent's state under `"a1"`.

    Raises `InvalidOption` for a budget or a share that is none.
    """

    state_schema = A1State

    def __init__(
        self,
        chat: ChatA1 | None = None,
        *,
        when: When | None = None,
        budget: int | None = None,
        escalate_below: float | None = None,
    ) -> None:
        super().__init__()
        if budget is not None and budget < 0:
            raise InvalidOption(f"budget is {budget}", "it is the number of turns of a run that may go to A1")
        if escalate_below is not None and not 0 <= escalate_below <= 1:
            raise InvalidOption(f"escalate_below is {escalate_below}", "it is a confidence between 0 and 1")
        self.tools = []
        self.chat = ChatA1() if chat is None else chat
        self._when = when
        self._budget = budget
        self._escalate_below = escalate_below

    def before_agent(self, state: A1State, runtime: Any) -> dict[str, Any]:
        """A run begins: its budget is whole."""
        return {"a1_calls": 0}

    async def abefore_agent(self, state: A1State, runtime: Any) -> dict[str, Any]:
        """As `before_agent`."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Asks A1, the agent's own model, or one after the other."""
        if not self._takes(request):
            return _counted(request, handler(request), None, escalated=False)
        answered: ModelResponse[Any] | None = None
        try:
            answered = handler(self._to_a1(request))
        except _FAILURES:
            if self._escalate_below is None:
                raise
        if answered is not None and not self._is_split(answered):
            return _counted(request, answered, answered, escalated=False)
        return _counted(request, handler(request), answered, escalated=True)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """As `wrap_model_call`."""
        if not self._takes(request):
            return _counted(request, await handler(request), None, escalated=False)
        answered: ModelResponse[Any] | None = None
        try:
            answered = await handler(self._to_a1(request))
        except _FAILURES:
            if self._escalate_below is None:
                raise
        if answered is not None and not self._is_split(answered):
            return _counted(request, answered, answered, escalated=False)
        return _counted(request, await handler(request), answered, escalated=True)

    def _takes(self, request: ModelRequest[Any]) -> bool:
        spent = cast("dict[str, Any]", request.state).get("a1_calls", 0)
        if self._budget is not None and spent >= self._budget:
            return False
        return self._when is None or self._when(request)

    def _to_a1(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request for A1; settings of the agent's own model that A1 has too go with it."""
        settings = {key: value for key, value in request.model_settings.items() if key in SETTING_NAMES}
        return request.override(model=self.chat, model_settings=settings)

    def _is_split(self, answered: ModelResponse[Any]) -> bool:
        return self._escalate_below is not None and _confidence(answered) < self._escalate_below


def _metadata(answered: ModelResponse[Any]) -> dict[str, Any]:
    message = next((m for m in answered.result if isinstance(m, AIMessage)), None)
    return {} if message is None else message.response_metadata


def _confidence(answered: ModelResponse[Any]) -> float:
    return float(_metadata(answered).get("confidence") or 0.0)


def _counted(
    request: ModelRequest[Any], response: ModelResponse[Any], answered: ModelResponse[Any] | None, *, escalated: bool
) -> ExtendedModelResponse[Any]:
    """The response, with the totals that it brings the agent to; `answered`: what A1 said, if it was asked and did."""
    state = cast("dict[str, Any]", request.state)
    totals: dict[str, Any] = dict(state.get("a1") or _nothing())
    asked = answered is not None or escalated
    if not asked:
        totals["passed_on"] += 1
    else:
        confidence = _confidence(answered) if answered is not None else 0.0
        totals["disagreement"] = (totals["disagreement"] * totals["calls"] + 1 - confidence) / (totals["calls"] + 1)
        totals["calls"] += 1
        totals["escalations"] += escalated
    stats: dict[str, Any] = {} if answered is None else _metadata(answered).get("a1") or {}
    for name in _COUNTED:
        totals[name] += stats.get(name, 0)
    update = {"a1": totals, "a1_calls": state.get("a1_calls", 0) + asked}
    return ExtendedModelResponse(model_response=response, command=Command(update=update))


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
