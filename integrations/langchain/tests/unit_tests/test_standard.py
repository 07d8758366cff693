"""LangChain's standard unit tests."""

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import BaseTool
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests
from syrupy.assertion import SnapshotAssertion

from langchain_a1 import A1Tool, ChatA1


class TestChatA1(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatA1

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"chains": 4}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"A1_DRAFT": "scripted:sums", "A1_TARGET": "scripted:sums"}
        return environment, {}, {"draft": "scripted:sums", "target": "scripted:sums"}

    @pytest.mark.xfail(reason="langchain-core loads classes of other packages only when named; see test_chat_model.py")
    def test_serdes(self, model: BaseChatModel, snapshot: SnapshotAssertion) -> None:
        super().test_serdes(model, snapshot)


class TestA1Tool(ToolsUnitTests):
    @property
    def tool_constructor(self) -> type[BaseTool]:
        return A1Tool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"question": "What is 47 * 28?"}
