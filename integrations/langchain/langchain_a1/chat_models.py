"""`ChatA1`: A1 as a LangChain chat model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, cast

from a1agent import A1, A1Error, Event, InvalidAnswer, InvalidOption, ModelError, Options, Question
from a1agent.backends.base import Backend
from a1agent.config import (
    AnswerKind,
    BaselineName,
    CalibratorName,
    Coverage,
    EarlyStop,
    Lookahead,
    ScoreName,
    StartMode,
    TakeoverMode,
    VoteMethod,
)
from a1agent.effort import Effort
from a1agent.errors import nearest
from a1agent.narrator import Narrator
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils import from_env
from pydantic import ConfigDict, Field, InstanceOf, PrivateAttr, model_validator

from langchain_a1._agents import Held, forget, shared_agent
from langchain_a1._events import ReportingChatModel, areporter, reporter
from langchain_a1._messages import a1_messages
from langchain_a1._requests import KEEP_INVALID, STRICT_TOOLS, Request, function_tools, tool_choice_name
from langchain_a1._schemas import openai_tool
from langchain_a1._settings import SETTING_NAMES, call_options, named_as_given
from langchain_a1._structured import response_format, structured_output

__all__ = ["ChatA1"]

Model = str | InstanceOf[Backend]
_UNUSED = ("api_key", "max_retries")
_RENAMED = {
    "model": "target",
    "model_name": "target",
    "timeout_s": "timeout",
    "request_timeout": "timeout",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
}
_TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", STRICT_TOOLS)
_NO_OPTIONS = ("model", "response_format", "stream", KEEP_INVALID, *_TOOL_FIELDS)


class ChatA1(ReportingChatModel):
    """Two models that reason together as one chat model: the draft writes, the target takes over a share of its steps.

    `draft` and `target` are model addresses (or backends); without them the models that ship with a1agent run. Every
    option of `a1agent.A1` is a field here and may be given per call too (`invoke(..., rejection_rate=0.1)`, `bind`);
    None means A1's own default. Instances that name the same models share them loaded; what was loaded stays so until
    `close`.

    What a call did stands in the message: `usage_metadata`, `response_metadata["a1"]` (the `RejectionStats`),
    `response_metadata["confidence"]`, and the reasoning in `additional_kwargs["reasoning_content"]`.

    `model` is another name for `target`, `timeout` is in seconds. `api_key` and `max_retries` are taken, so that
    constructor calls of other chat models go through, and not used: keys are named in model addresses.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", validate_default=False)

    draft: Model = Field(default_factory=from_env("A1_DRAFT", default="embedded:draft"))
    target: Model = Field(default_factory=from_env("A1_TARGET", default="embedded:target"))
    calibration: str | None = "default"
    streaming: bool = False

    reasoning_effort: Effort | None = None
    chains: int | None = None
    turns: int | None = None
    rejection_rate: float | None = None
    verify_rate: float | None = None
    coverage: Coverage | None = None
    calibrator: CalibratorName | None = None
    baseline: BaselineName | None = None
    lookahead: Lookahead | None = None
    takeover: TakeoverMode | None = None
    attempts: int | None = None
    vote: VoteMethod | None = None
    answer: AnswerKind | None = None
    step_tokens: int | None = None
    min_step_tokens: int | None = None
    takeover_tokens: int | None = None
    answer_tokens: int | None = None
    max_tokens: int | None = None
    timeout: float | None = None
    early_stop: EarlyStop | None = None
    stop_probability: float | None = None
    start: StartMode | None = None
    score: ScoreName | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    stop: list[str] | None = None
    seed: int | None = None

    _used: Held = PrivateAttr(default_factory=Held)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Other names of fields; an unknown one is an error that names the nearest known one."""
        if not isinstance(values, dict):
            return values
        given = {k: v for k, v in cast("dict[str, Any]", values).items() if k not in _UNUSED}
        for name, field in _RENAMED.items():
            if name in given and field in given:
                raise InvalidOption(f"both {name} and {field} are given", "they are one: give one of them")
            if name in given:
                given[field] = given.pop(name)
        if isinstance(given.get("calibration"), os.PathLike):
            given["calibration"] = os.fspath(given["calibration"])
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        for name in given:
            if name not in cls.model_fields:
                raise InvalidOption(f"unknown option {name!r}", nearest(name, cls.model_fields))
        return given

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Options out of range and models that cannot work are refused before a question comes."""
        try:
            with named_as_given():
                Options.of(**call_options(self._settings()))
                self._agent()
        except A1Error as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def model_name(self) -> str:
        """The target as named in `response_metadata` and in traces."""
        return _name(self.target)

    @property
    def _llm_type(self) -> str:
        return "a1-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        models = {"draft": _name(self.draft), "target": self.model_name, "calibration": self.calibration}
        return {**models, **{key: value for key, value in self._settings().items() if value is not None}}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It holds no secrets: keys stand in the environment."""
        return True

    def close(self) -> None:
        """Frees the models, also for others that name the same; they are loaded anew when used next."""
        if (agent := forget(self.draft, self.target, self.calibration)) is not None:
            agent.close()

    async def aclose(self) -> None:
        """As `close`."""
        if (agent := forget(self.draft, self.target, self.calibration)) is not None:
            await agent.aclose()

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of a text in the target's vocabulary, or as `custom_get_token_ids` has them."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return list(self._agent().tokenize(text))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A model that may call the tools. `tool_choice`: `"auto"`, `"none"`, `"any"`, or the name of one tool.

        With `parallel_tool_calls=False` an answer calls one tool at most.
        Tools reach the models through their own chat template; one that has no place for tools is a `ValueError` at
        the first call.
        """
        functions = [openai_tool(tool, strict=strict) for tool in tools]
        return self.bind(tools=functions, tool_choice=tool_choice_name(tool_choice), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """A model whose answers match a schema (pydantic class, `TypedDict`, JSON schema).

        `json_mode` does not show it to the models, the prompt has to describe it; without one any JSON object will do.
        Chains whose answer does not validate do not vote. When none does, an `OutputParserException` carries what the
        best chain wrote (`llm_output`); with `include_raw` it is in `parsing_error`, beside the raw message.
        """
        if kwargs:
            raise InvalidOption(f"unknown option {next(iter(kwargs))!r}", "use method, include_raw or strict")
        if schema is None and method != "json_mode":
            raise InvalidOption("there is no schema", 'give one, or use method="json_mode"')
        return structured_output(self, {"type": "object"} if schema is None else schema, method, include_raw, strict)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        try:
            with named_as_given():
                return request.chat_result(request.agent.solve(request.question, **request.options))
        except InvalidAnswer as error:
            return request.refused(error)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, kwargs)
        try:
            with named_as_given():
                return request.chat_result(await request.agent.asolve(request.question, **request.options))
        except InvalidAnswer as error:
            return request.refused(error)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request, report, narrator = self._request(messages, stop, kwargs), reporter(self, run_manager), Narrator()
        try:
            found = request.agent.stream(request.question, **request.options)
            with named_as_given(), contextlib.closing(found) as events:
                for event in events:
                    report(event)
                    yield from request.chunks(event, narrator)
        except InvalidAnswer as error:
            yield request.refused_chunk(error)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        request, report, narrator = self._request(messages, stop, kwargs), areporter(self, run_manager), Narrator()
        try:
            with named_as_given():
                async with _Closing(request.agent.astream(request.question, **request.options)) as events:
                    async for event in events:
                        await report(event)
                        for chunk in request.chunks(event, narrator):
                            yield chunk
        except InvalidAnswer as error:
            yield request.refused_chunk(error)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "a1"
        params["ls_model_name"] = _name(kwargs.get("model") or self.target)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        return ModelProfile(
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            pdf_inputs=False,
            text_outputs=True,
            reasoning_output=True,
            structured_output=True,
        )

    def _settings(self) -> dict[str, Any]:
        """The options that were given to this model, under the names of its fields."""
        return {name: getattr(self, name) for name in sorted(SETTING_NAMES)}

    def agent_and_options(self) -> tuple[A1, dict[str, Any]]:
        """The agent behind this model, and the options of its calls."""
        return self._agent(), call_options(self._settings())

    def _agent(self, target: Model | None = None) -> A1:
        target = self.target if target is None else target
        try:
            agent = shared_agent(self.draft, target, self.calibration)
        except ModelError as error:
            raise InvalidOption(error.what, error.hint) from error
        if not isinstance(self.draft, str) and not isinstance(target, str):
            self._used[id(self.draft), id(target)] = agent  # its calibration lasts as long as this model
        return agent

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """What a cache knows this model by; LangChain would write all backends as the same."""
        prints = [model.info.fingerprint for model in (self.draft, self.target) if not isinstance(model, str)]
        return "---".join([super()._get_llm_string(stop, **kwargs), *prints])

    def _request(self, messages: list[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]) -> Request:
        """A call. Raises `ValueError`s for what the models cannot take or the options cannot be."""
        given = {key: value for key, value in kwargs.items() if key not in _NO_OPTIONS}
        target = kwargs.get("model") or self.target
        question = Question(
            messages=a1_messages(messages),
            tools=function_tools(kwargs.get("tools")),
            tool_choice=tool_choice_name(kwargs.get("tool_choice")),
            parallel_tool_calls=kwargs.get("parallel_tool_calls") is not False,
            strict_tools=bool(kwargs.get(STRICT_TOOLS)),
            response_format=response_format(kwargs.get("response_format")),
        )
        return Request(
            agent=self._agent(target),
            question=question,
            options=call_options(self._settings(), given, {"stop": stop}),
            model_name=_name(target),
            keep_invalid=bool(kwargs.get(KEEP_INVALID)),
        )


class _Closing(contextlib.aclosing[AsyncGenerator[Event, None]]):
    """Closes events at the end of a block, but not where the generator that the block is in is closed itself.

    They are let go then, and their loop closes them: one that ends closes both at once, and neither bears that twice.
    """

    async def __aexit__(self, *error: Any) -> None:
        if error[0] is not GeneratorExit:
            await super().__aexit__(*error)


def _name(model: str | Backend) -> str:
    return model if isinstance(model, str) else model.info.name
