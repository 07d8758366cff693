"""Tools and schemas as OpenAI writes them, also where a class refers to itself.

LangChain's own conversion puts the parts of a schema where they are referred to, and drops what refers to itself.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from langchain_core.tools import BaseTool, create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

__all__ = ["json_schema", "openai_tool", "schema_tool"]

_UNNAMED = "answer"


def openai_tool(
    tool: Mapping[str, Any] | type | Callable[..., Any] | BaseTool, *, strict: bool | None = None
) -> dict[str, Any]:
    """A tool as OpenAI writes it. Raises `ValueError` for what is none."""
    found = convert_to_openai_tool(tool, strict=strict)
    own = _own_schema(tool)
    if not _refers_to_itself(own):
        return found
    parameters = schema_tool(own)["function"]["parameters"]
    return convert_to_openai_tool({**found["function"], "parameters": parameters}, strict=strict)


def schema_tool(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A tool of the schema's name that is called with what matches the schema."""
    parameters = dict(_from_root(schema))
    function = {"name": parameters.pop("title", _UNNAMED), "description": parameters.pop("description", "")}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def json_schema(given: Mapping[str, Any] | type | Callable[..., Any] | BaseTool) -> dict[str, Any]:
    """The JSON schema of a class or a tool, under its name and description. Raises `ValueError` for what is none."""
    function = openai_tool(given)["function"]
    description = {"description": function["description"]} if "description" in function else {}
    return {"title": function["name"], **description, **function.get("parameters", {})}


def _own_schema(tool: Any) -> Mapping[str, Any]:
    """The schema as its class writes it; empty where LangChain's conversion leaves it as it is."""
    if isinstance(tool, Mapping):
        return {}
    if isinstance(tool, BaseTool):
        tool = tool.tool_call_schema
    elif not isinstance(tool, type):
        tool = create_schema_from_function(
            tool.__name__,
            tool,
            filter_args=(),
            parse_docstring=True,
            error_on_invalid_docstring=False,
            include_injected=False,
        )
    if isinstance(tool, Mapping):
        return cast("Mapping[str, Any]", tool)
    if not is_basemodel_subclass(tool):
        return {}
    model: Any = tool  # of either version of pydantic
    return model.model_json_schema() if hasattr(model, "model_json_schema") else model.schema()


def _refers_to_itself(schema: Mapping[str, Any]) -> bool:
    parts = {name: set(_referred(part)) for name, part in _parts(schema).items()}
    try:
        graphlib.TopologicalSorter(parts).prepare()
    except graphlib.CycleError:
        return True
    return False


def _from_root(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema with its fields at its root, where that only refers to a part of it."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    part = _parts(schema).get(name)
    return schema if part is None else {key: value for key, value in {**part, **schema}.items() if key != "$ref"}


def _parts(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema.get("$defs") or schema.get("definitions") or {}


def _referred(value: Any) -> Iterator[str]:
    """Names of the parts that a schema refers to."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        if isinstance(reference := fields.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for field in fields.values():
            yield from _referred(field)
    elif isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _referred(each)
