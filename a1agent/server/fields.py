"""Fields of a request: what is served, what says nothing new, and what is refused by name with the reason.

A field that would change the answer at OpenAI and cannot here is refused, never ignored. Values that only repeat what
happens anyway (`frequency_penalty: 0`, `store: false`) are let through, as clients send them unasked; null in a field
that is known means that it is not given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from a1agent.errors import nearest
from a1agent.server.errors import ApiError
from a1agent.server.logs import clean

__all__ = ["MOST_MESSAGES", "MOST_TOOLS", "REFUSED", "UNKNOWN_KIND", "Fields", "check_whole", "invalid"]

MOST_MESSAGES, MOST_TOOLS = 4096, 1024
"""What a request may hold of each: they are looked at in the event loop, which all requests share."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "background": (False,),
    "context": ("auto",),
    "defer_loading": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "mode": ("standard",),
    "presence_penalty": (0, 0.0),
    "refusal": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_calls": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "verbosity": ("medium",),
}
"""Values (beside null) that say what happens anyway."""

REFUSED: Mapping[str, str] = {
    "access_programs": "the server has no such programs",
    "allowed_callers": "the client calls all tools",
    "annotations": "models here read text only",
    "audio": "A1 writes text only",
    "background": "calls live as long as their connection; stream the answer instead",
    "background_options": "calls live as long as their connection; stream the answer instead",
    "caller": "the client calls all tools",
    "context": "a conversation is read as it is sent",
    "context_management": "a conversation is read as it is sent",
    "conversation": "no conversation is kept here; send all its messages",
    "defer_loading": "tools are shown to the models at once",
    "encrypted_content": "reasoning is plain text here",
    "frequency_penalty": "both models are sampled without penalties",
    "function_call": "use tools and tool_choice",
    "functions": "use tools",
    "generate_summary": "reasoning is given as the chains wrote it",
    "image": "A1 writes text only",
    "include": "nothing of it is produced here",
    "logit_bias": "both models are sampled without biases",
    "logprobs": "an answer is voted among chains and has no log-probabilities of its own",
    "max_tool_calls": "the server calls no tools itself",
    "metadata": "nothing is stored here; `user` goes into the log",
    "modalities": "A1 writes text only",
    "mode": "reasoning_effort and a1 say how hard to think",
    "moderation": "nothing is moderated here",
    "namespace": "tools have plain names",
    "output_schema": "what tools answer is read as text",
    "prediction": "the draft model predicts",
    "presence_penalty": "both models are sampled without penalties",
    "previous_response_id": "no response is kept here; send all messages",
    "prompt": "no prompts are kept here; send the messages",
    "prompt_cache_key": "prompts are found in the cache by what they say",
    "prompt_cache_options": "prompts are found in the cache by what they say",
    "prompt_cache_retention": "prompts stay in the cache while there is room",
    "refusal": "models here read text only",
    "service_tier": "there is one tier",
    "store": "nothing is stored here",
    "summary": "reasoning is given as the chains wrote it",
    "top_logprobs": "an answer is voted among chains and has no log-probabilities of its own",
    "truncation": "a conversation that is too long is refused, never cut",
    "verbosity": "ask for it in the prompt",
    "web_search_options": "the server has no web search",
}


_UNSERVED = "unserved_field"
UNKNOWN_KIND = "unknown_kind"
"""The error of an object whose `type` is none of those that are served."""


class Fields(BaseModel):
    """An object of a request: strict, closed, and deaf to what says nothing new.

    `unserved`: fields that OpenAI's object has beside its own. Each has its reason in `REFUSED`.
    """

    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=lambda schema: _allow_null(schema))

    unserved: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _take(cls, given: Any) -> Any:
        """The fields that say something. Raises for the first that is unknown, whatever its value."""
        if not isinstance(given, dict):
            return given  # validation refuses it
        own = {field.alias or name for name, field in cls.model_fields.items()}
        fields = cast("dict[str, Any]", given)
        told = {k: v for k, v in fields.items() if not (v is None or _among(v, NEUTRAL.get(k, ())))}
        for name in fields:
            if name not in own and (name in told or name not in cls.unserved):
                hint = "" if name in REFUSED else nearest(clean(name), own)
                raise PydanticCustomError(_UNSERVED, "has a field that is not served", {"name": name, "hint": hint})
        return told


def _allow_null(schema: dict[str, Any]) -> None:
    """Says in the document that null means "not given"."""
    for name, field in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and {"type": "null"} not in field.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [field, {"type": "null"}]}


def check_whole(given: Any) -> Any:
    """The given as it is. Raises ValueError for text that is no Unicode, which no model could read, and for 1e999."""
    try:
        json.dumps(given, ensure_ascii=False, allow_nan=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("a text in it is no Unicode (half of a surrogate pair), or it is nested too deeply") from None
    except ValueError:
        raise ValueError("a number in it is not finite") from None
    return given


def _among(value: Any, neutral: tuple[Any, ...]) -> bool:
    # By type too: 0 == False, and a client that mixes them up should hear of it.
    return any(type(value) is type(each) and value == each for each in neutral)


def invalid(errors: Sequence[Any]) -> ApiError:
    """The 400 that names the field at fault. `errors`: of pydantic."""
    # Of another type all else differs; what is too long is at least of the right one.
    error = max(errors, key=lambda e: (len(e["loc"]), e["loc"][-1:] == ("type",), e["type"] == "too_long"))
    path = _path(error["loc"])
    if error["type"] in ("json_invalid", "json_type"):
        return ApiError(400, f"the body is no JSON: {error.get('ctx', {}).get('error', error['msg'])}", code="bad_json")
    if error["type"] == _UNSERVED:
        return _refused(path, error["ctx"]["name"], error["ctx"]["hint"])
    if error["type"] == UNKNOWN_KIND:
        path += ".type"
    if error["type"] == "missing":
        return ApiError(400, f"{path} is missing", code="missing_required_parameter", param=path)
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return ApiError(400, f"{path or 'the body'}: {message}", code="invalid_value", param=path or None)


def _refused(where: str, name: str, hint: str) -> ApiError:
    path = f"{where}.{clean(name)}".removeprefix(".")
    if name in REFUSED:
        return ApiError(400, f"{path} is not supported: {REFUSED[name]}", code="unsupported_parameter", param=path)
    return ApiError(400, f"unknown field {path}: {hint}", code="unknown_parameter", param=path)


def _path(where: Sequence[str | int]) -> str:
    """`messages[0].content`: without the body, and without the names of a union's branches."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "body" and re.fullmatch(r"[a-z_0-9]+", part) and part not in ("str", "list"):
            path += f".{part}"
    return path.removeprefix(".")
