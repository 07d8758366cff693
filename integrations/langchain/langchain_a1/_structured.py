"""`with_structured_output`: answers that match a schema, parsed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from a1agent.structured import check_schema
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from langchain_a1._requests import INVALID, KEEP_INVALID

__all__ = ["structured_output"]

Schema = Mapping[str, Any] | type


def structured_output(
    chat: BaseChatModel,
    schema: Schema,
    method: Literal["json_schema", "json_mode"],
    include_raw: bool,
    strict: bool | None,
) -> Runnable[LanguageModelInput, Any]:
    """The chat model bound to a response format, and a parser. Raises `InvalidQuestion` for a schema that is none."""
    json_schema = _json_schema(schema)
    check_schema(json_schema, "the schema")
    bound = chat.bind(
        response_format=_response_format(json_schema, method, strict),
        ls_structured_output_format={"kwargs": {"method": method, "strict": strict}, "schema": schema},
        **({KEEP_INVALID: True} if include_raw else {}),
    )
    parser = _parser(schema)
    if not include_raw:
        return bound | parser

    def parse(found: dict[str, AIMessage]) -> dict[str, Any]:
        return _with_error(found["raw"], parser)

    return RunnableMap(raw=bound) | RunnableLambda(parse)


def _json_schema(schema: Schema) -> dict[str, Any]:
    if isinstance(schema, Mapping) and not {"parameters", "function"} & schema.keys():
        return dict(schema)
    return convert_to_json_schema(cast("Any", schema))


def _response_format(schema: dict[str, Any], method: str, strict: bool | None) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object"}
    named = {"name": schema.get("title", "answer"), "schema": schema, "strict": bool(strict)}
    return {"type": "json_schema", "json_schema": named}


def _parser(schema: Schema) -> Runnable[Any, Any]:
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return PydanticOutputParser(pydantic_object=cast("Any", schema))
    return JsonOutputParser()


def _with_error(raw: AIMessage, parser: Runnable[Any, Any]) -> dict[str, Any]:
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
