"""`A1Tool`: A1 as a tool, for agents that any other model runs."""

from __future__ import annotations

from typing import Any, Literal

from a1agent import A1Error, Question, Result
from a1agent.prompts import ask_for_box
from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import ArgsSchema, BaseTool, ToolException
from pydantic import BaseModel, Field, InstanceOf

from langchain_a1._settings import named_as_given
from langchain_a1.chat_models import ChatA1

__all__ = ["A1Tool"]


class Reason(BaseModel):
    """What the tool is called with."""

    question: str = Field(description="One question with everything that is needed to answer it.")


class A1Tool(BaseTool):
    """Hands a hard question to A1: `reason(question)` gives the voted answer and how many chains agree on it.

    The artifact of the tool message is the result as a dictionary: `answer`, `confidence`, `text`, `reasoning`,
    `usage`, and `stats`, the `RejectionStats` of the call. `chat` holds the models and the options. A question that
    cannot be answered is a `ToolException`, which ends an agent's run; with `handle_tool_error=True` its model is
    told instead.
    """

    name: str = "reason"
    description: str = (
        "Thinks a hard question through in parallel and votes on the answer. For mathematics, logic and puzzles that "
        "need several steps. Gives the answer and the share of attempts that agree on it."
    )
    args_schema: ArgsSchema | None = Reason
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    chat: InstanceOf[ChatA1] = Field(default_factory=ChatA1)

    def _run(self, question: str, run_manager: CallbackManagerForToolRun | None = None) -> tuple[str, dict[str, Any]]:
        agent, options = self.chat.agent_and_options()
        try:
            with named_as_given():
                return _told(agent.solve(ask_for_box(Question.of(question)), **options))
        except A1Error as error:
            raise ToolException(str(error)) from error

    async def _arun(
        self, question: str, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> tuple[str, dict[str, Any]]:
        agent, options = self.chat.agent_and_options()
        try:
            with named_as_given():
                return _told(await agent.asolve(ask_for_box(Question.of(question)), **options))
        except A1Error as error:
            raise ToolException(str(error)) from error


def _told(result: Result) -> tuple[str, dict[str, Any]]:
    if result.answer is None:
        return result.text, result.as_dict()
    return f"{result.answer}\n(confidence {result.confidence:.2f})", result.as_dict()
