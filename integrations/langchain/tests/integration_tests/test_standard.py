"""LangChain's standard integration tests: on the models that ship, and on a scripted model that can call tools.

What they skip is what these models do not claim: images, audio and PDF (A1's models take text), and the replay of
recorded HTTP (they run in this process).
"""

import functools
import operator
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests

from langchain_a1 import A1Tool, ChatA1

NO_PROSE = "the embedded models were trained on arithmetic only: held to JSON strings of prose, they never close them"
NO_TOOLS = "the embedded models were never trained on tools and their chat template has no place for any"


class TestObedient(ChatModelIntegrationTests):
    """A scripted model that does what it is told, behind a chat template of the Hermes family."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatA1

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"draft": "scripted:obedient", "target": "scripted:obedient", "calibration": None, "seed": 1}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str | None:
        return "scripted:obedient?accuracy=0.9"


class TestObedientByTools(TestObedient):
    """Structured output through tool calls."""

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestEmbedded(ChatModelIntegrationTests):
    """The models that ship with a1agent: they talk about arithmetic only, and know no tools."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatA1

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"chains": 1, "turns": 2, "step_tokens": 32, "seed": 1, "calibration": None, "max_tokens": 64}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Any]]:
        return {"invoke": ["reasoning_output", "cache_read_input"], "stream": ["reasoning_output", "cache_read_input"]}

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._asked(stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        self._asked(stream)
        return self._asked(stream)

    def _asked(self, stream: bool) -> AIMessage:
        model = ChatA1(**self.chat_model_params)
        if not stream:
            return model.invoke("What is 47 * 28?")
        return functools.reduce(operator.add, model.stream("What is 47 * 28?"))

    @property
    def model_override_value(self) -> str | None:
        return "embedded:draft"

    @pytest.mark.xfail(reason=NO_PROSE)
    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    def test_structured_output(self, model: BaseChatModel, schema_type: Any) -> None:
        super().test_structured_output(model, schema_type)

    @pytest.mark.xfail(reason=NO_PROSE)
    @pytest.mark.parametrize("schema_type", ["pydantic", "typeddict", "json_schema"])
    async def test_structured_output_async(self, model: BaseChatModel, schema_type: Any) -> None:
        await super().test_structured_output_async(model, schema_type)

    @pytest.mark.xfail(reason=NO_PROSE)
    def test_structured_output_pydantic_2_v1(self, model: BaseChatModel) -> None:
        super().test_structured_output_pydantic_2_v1(model)

    @pytest.mark.xfail(reason=NO_PROSE)
    def test_structured_output_optional_param(self, model: BaseChatModel) -> None:
        super().test_structured_output_optional_param(model)

    @pytest.mark.xfail(reason=NO_PROSE)
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_message_histories_string_content(self, model: BaseChatModel, my_adder_tool: BaseTool) -> None:
        super().test_tool_message_histories_string_content(model, my_adder_tool)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_message_histories_list_content(self, model: BaseChatModel, my_adder_tool: BaseTool) -> None:
        super().test_tool_message_histories_list_content(model, my_adder_tool)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_choice(self, model: BaseChatModel) -> None:
        super().test_tool_choice(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_tool_message_error_status(self, model: BaseChatModel, my_adder_tool: BaseTool) -> None:
        super().test_tool_message_error_status(model, my_adder_tool)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_structured_few_shot_examples(self, model: BaseChatModel, my_adder_tool: BaseTool) -> None:
        super().test_structured_few_shot_examples(model, my_adder_tool)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_anthropic_inputs(self, model: BaseChatModel) -> None:
        super().test_anthropic_inputs(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason=NO_TOOLS)
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)


class TestA1ToolEmbedded(ToolsIntegrationTests):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return A1Tool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"chat": ChatA1(chains=2, seed=1, calibration=None)}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "What is 47 * 28?"}
