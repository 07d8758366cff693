"""Fields of a request: what is served, what says nothing new, and what is refused by name with the reason.

A field that would change the answer at OpenAI and cannot here is refused, never ignored. Values that only repeat what
happens anyway (`frequency_penalty: 0`, `store: false`) are let through, as clients send them unasked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, model_validator

from a1agent.errors import nearest
from a1agent.server.errors import ApiError

__all__ = ["REFUSED", "Fields", "check_whole", "invalid", "without_neutral"]

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "background": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
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
    "audio": "A1 writes text only",
    "background": "calls live as long as their connection; stream the answer instead",
    "conversation": "no conversation is kept here; send all its messages",
    "encrypted_content": "reasoning is plain text here",
    "frequency_penalty": "both models are sampled without penalties",
    "function_call": "use tools and tool_choice",
    "functions": "use tools",
    "generate_summary": "reasoning is given as the chains wrote it",
    "include": "nothing of it is produced here",
    "logit_bias": "both models are sampled without biases",
    "logprobs": "an answer is voted among chains and has no log-probabilities of its own",
    "max_tool_calls": "the server calls no tools itself",
    "metadata": "nothing is stored here; `user` goes into the log",
    "modalities": "A1 writes text only",
    "prediction": "the draft model predicts",
    "presence_penalty": "both models are sampled without penalties",
    "previous_response_id": "no response is kept here; send all messages",
    "prompt": "no prompts are kept here; send the messages",
    "service_tier": "there is one tier",
    "store": "nothing is stored here",
    "summary": "reasoning is given as the chains wrote it",
    "top_logprobs": "an answer is voted among chains and has no log-probabilities of its own",
    "truncation": "a conversation that is too long is refused, never cut",
    "verbosity": "ask for it in the prompt",
    "web_search_options": "the server has no web search",
}


class Fields(BaseModel):
    """An object of a request: strict, closed, and deaf to what says nothing new."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, given: Any) -> Any:
        return without_neutral(given)


def without_neutral(fields: Any) -> Any:
    """The fields without those that say what happens anyway; what is no object is left for validation to refuse."""
    if not isinstance(fields, dict):
        return fields
    given = cast("dict[str, Any]", fields)
    return {k: v for k, v in given.items() if not (v is None or (k in NEUTRAL and _among(v, NEUTRAL[k])))}


def check_whole(given: Any) -> Any:
    """The given as it is. Raises ValueError where a text in it is no Unicode, which no model could read."""
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise ValueError("a text in it is no Unicode (half of a surrogate pair), or it is nested too deeply") from None
    return given


def _among(value: Any, neutral: tuple[Any, ...]) -> bool:
    # By type too: 0 == False, and a client that mixes them up should hear of it.
    return any(type(value) is type(each) and value == each for each in neutral)


def invalid(errors: Sequence[Any], known: Mapping[str, Sequence[str]]) -> ApiError:
    """The 400 that names the field at fault. `errors`: of pydantic; `known`: fields of each object, by its path."""
    error = max(errors, key=lambda e: len(e["loc"]))
    path = _path(error["loc"])
    name = path.rsplit(".", 1)[-1]
    if error["type"] in ("json_invalid", "json_type"):
        return ApiError(400, f"the body is no JSON: {error.get('ctx', {}).get('error', error['msg'])}", code="bad_json")
    if error["type"] == "extra_forbidden":
        if name in REFUSED:
            return ApiError(400, f"{path} is not supported: {REFUSED[name]}", code="unsupported_parameter", param=path)
        hint = nearest(name, known.get(re.sub(r"\[\d+\]", "[]", path.rpartition(".")[0]), ()))
        return ApiError(400, f"unknown field {path}: {hint}", code="unknown_parameter", param=path)
    if error["type"] == "missing":
        return ApiError(400, f"{path} is missing", code="missing_required_parameter", param=path)
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return ApiError(400, f"{path or 'the body'}: {message}", code="invalid_value", param=path or None)


def _path(where: Sequence[str | int]) -> str:
    """`messages[0].content`: without the body, and without the names of a union's branches."""
    path = ""
    for part in where:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "body" and re.fullmatch(r"[a-z_0-9]+", part) and part not in ("str", "list"):
            path += f".{part}"
    return path.removeprefix(".")
