"""`with_structured_output`: answers that match a schema, parsed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

from a1agent.errors import InvalidQuestion
from a1agent.structured import check_schema
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_a1._requests import INVALID, KEEP_INVALID, STRICT_TOOLS
from langchain_a1._schemas import json_schema, schema_tool

__all__ = ["response_format", "structured_output"]

Schema = Mapping[str, Any] | type
Method = Literal["json_schema", "function_calling", "json_mode"]
Bind = Callable[..., Runnable[LanguageModelInput, Any]]
Parser = Runnable[Any, Any]

_UNNAMED = "answer"


def structured_output(
    chat: BaseChatModel, schema: Schema, method: Method, include_raw: bool, strict: bool | None
) -> Runnable[LanguageModelInput, Any]:
    """The chat model bound to a format or to a tool, and a parser. Raises `InvalidQuestion` for a schema that is none.

    With `include_raw` an invalid answer comes as a message too, and the parser says what is wrong with it.
    """
    check_schema(_json_schema(schema), "the schema")
    by_tool = method == "function_calling"
    bind, parser = _by_tool(chat, schema, strict) if by_tool else _by_format(chat, schema, method, strict)
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
    if not include_raw:
        return bind(ls_structured_output_format=traced) | parser

    def parse(found: dict[str, AIMessage]) -> dict[str, Any]:
        return _with_error(found["raw"], parser)

    raw = bind(ls_structured_output_format=traced, **{KEEP_INVALID: True})
    return RunnableMap(raw=raw) | RunnableLambda(parse)


def response_format(given: Any) -> Mapping[str, Any] | None:
    """A format as A1 takes it: as OpenAI writes it, or a class in its place. Raises `InvalidQuestion` for others."""
    if given is None or isinstance(given, Mapping):
        return cast("Mapping[str, Any] | None", given)
    if not isinstance(given, type):
        raise InvalidQuestion(f"response_format is {given!r}", "use a pydantic class, or a format as OpenAI writes it")
    return _response_format(json_schema(given), "json_schema", None)


def _by_format(chat: BaseChatModel, schema: Schema, method: str, strict: bool | None) -> tuple[Bind, Parser]:
    wanted = _response_format(_json_schema(schema), method, strict)
    parser = PydanticOutputParser(pydantic_object=cast("Any", schema)) if _is_model(schema) else JsonOutputParser()
    return partial(chat.bind, response_format=wanted), parser


def _by_tool(chat: BaseChatModel, schema: Schema, strict: bool | None) -> tuple[Bind, Parser]:
    if _is_model(schema):
        tool = cast("Any", schema)
        parser: Parser = _ModelParser(tools=[tool], first_tool_only=True)
    else:
        tool = schema_tool(_json_schema(schema))
        parser = JsonOutputKeyToolsParser(key_name=tool["function"]["name"], first_tool_only=True)
    return partial(chat.bind_tools, [tool], tool_choice="any", strict=strict, **{STRICT_TOOLS: True}), parser


class _ModelParser(PydanticToolsParser):
    """A call as a pydantic model; one that the model's own validators refuse is an error with the raw arguments."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        try:
            return super().parse_result(result, partial=partial)
        except OutputParserException:
            raise
        except ValueError as error:  # pydantic's, of either version
            message = cast("ChatGeneration", result[0]).message
            calls = cast("AIMessage", message).tool_calls
            raise OutputParserException(str(error), llm_output=json.dumps(calls[0]["args"])) from error


def _is_model(schema: Schema) -> bool:
    return isinstance(schema, type) and is_basemodel_subclass(schema)


def _json_schema(schema: Schema) -> dict[str, Any]:
    """The JSON schema in what LangChain takes for one: classes, tools, and the named schemas of OpenAI."""
    if not isinstance(schema, Mapping):
        return json_schema(schema)
    named = schema.get("schema")
    if "name" in schema and isinstance(named, Mapping):
        return {"title": schema["name"], **cast("Mapping[str, Any]", named)}
    if {"parameters", "function", "input_schema"} & schema.keys():
        return json_schema(schema)
    return dict(schema)


def _response_format(schema: dict[str, Any], method: str, strict: bool | None) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object", "schema": schema}
    named = {"name": schema.get("title", _UNNAMED), "schema": schema, "strict": bool(strict)}
    return {"type": "json_schema", "json_schema": named}


def _with_error(raw: AIMessage, parser: Parser) -> dict[str, Any]:
    """Raw message, parsed answer and error, one of the latter None."""
    try:
        return {"raw": raw, "parsed": parser.invoke(_valid(raw)), "parsing_error": None}
    except OutputParserException as error:
        return {"raw": raw, "parsed": None, "parsing_error": error}


def _valid(message: AIMessage) -> AIMessage:
    """Stops what A1 found invalid: it may well be JSON, of another shape."""
    if message.response_metadata.get("finish_reason") == INVALID:
        raise OutputParserException(message.response_metadata["error"], llm_output=message.text)
    return message
