"""From the wishes of a request to the options of a call, within the operator's caps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model, model_validator

from a1agent.config import Options, help_of
from a1agent.effort import Effort, with_effort
from a1agent.errors import InvalidOption, InvalidQuestion, nearest
from a1agent.server.errors import ApiError, api_error_of
from a1agent.server.fields import Fields, check_whole
from a1agent.server.jobs import Asked
from a1agent.server.logs import clean
from a1agent.server.settings import ServerSettings
from a1agent.types import Question

__all__ = ["AskingFields", "Content", "Extension", "Wishes", "make_asked"]

_OURS = (
    "chains",
    "turns",
    "rejection_rate",
    "verify_rate",
    "coverage",
    "lookahead",
    "takeover",
    "attempts",
    "vote",
    "answer",
    "step_tokens",
    "min_step_tokens",
    "takeover_tokens",
    "answer_tokens",
    "timeout_s",
    "early_stop",
    "stop_probability",
    "start",
    "top_k",
    "min_p",
)
"""Options a request may set under `a1`. Never models, paths or calibration: those are the operator's."""


class _Extension(Fields):
    events: bool = Field(False, description="stream every event of the chains, as `a1` beside the deltas")


def _extension() -> type[_Extension]:
    kinds = get_type_hints(Options)
    fields: dict[str, Any] = {name: (kinds[name] | None, Field(None, description=help_of(name))) for name in _OURS}
    return create_model(
        "A1Options", __base__=_Extension, __doc__="A1's own options, within the operator's caps.", **fields
    )


if TYPE_CHECKING:
    Extension = _Extension
else:
    Extension = _extension()


class AskingFields(Fields):
    """What requests of either API may say in the same words."""

    model: str = Field(max_length=256)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool = False
    parallel_tool_calls: bool = Field(True, description="false: an answer calls one tool at most")
    user: str | None = Field(None, max_length=512, description="goes into the server's log")
    safety_identifier: str | None = Field(None, max_length=512, description="the new name of user")
    a1: Extension | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_whole(cls, given: Any) -> Any:
        return check_whole(given)


_TEXT_PARTS = ("text", "input_text", "output_text", "reasoning_text")
_OF_PARTS = {"type", "text", "annotations", "logprobs"}
"""What a part may have; the last two tell of an earlier answer, and nothing of what it says."""
_COUNTS = ("step_tokens", "takeover_tokens", "answer_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a request asks for, whichever API it came through; None: the operator's default.

    `names`: what that API calls the parts of a question.
    """

    names: Mapping[str, str]
    n: int = 1
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    max_tokens_name: str = "max_completion_tokens"
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    effort: Effort | None = None
    extension: _Extension | None = None


def make_asked(
    question: Callable[[], Question], wishes: Wishes, defaults: Options, settings: ServerSettings, tenant: str
) -> Asked:
    """The call that the wishes describe. Raises `ApiError` that names the field which is impossible or above a cap."""
    try:
        made = question()
    except InvalidQuestion as error:
        raise api_error_of(error, wishes.names) from error
    asked = _asked_values(wishes)
    for name, value in asked.items():
        _check(name, value)
    options = _with_effort(_capped(defaults, settings), wishes, settings)
    try:
        options = options.replace(**asked)
    except InvalidOption as error:
        raise ApiError(400, str(error), code="invalid_value", param="a1") from None
    _check_caps(options, wishes, settings)
    return Asked(question=made, options=options, n=wishes.n, tenant=tenant, names=wishes.names)


def _text_of(content: Any) -> Any:
    """The text of a message's content: itself, or that of its parts. Raises ValueError for parts that are no text."""
    if not isinstance(content, list):
        return content
    return "".join(_part(part) for part in cast("list[Any]", content))


def _part(part: Any) -> str:
    fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind, text = fields.get("type"), fields.get("text")
    strange = next((name for name in fields if name not in _OF_PARTS), None)
    if kind in _TEXT_PARTS and strange is not None:
        raise ValueError(f"a part has the unknown field {clean(strange)}: {nearest(clean(strange), _OF_PARTS)}")
    if kind in _TEXT_PARTS and isinstance(text, str):
        return text
    raise ValueError(f"a part of type {str(kind)[:40]!r} is not supported: parts are {{'type': 'text', 'text': ...}}")


Content = Annotated[
    str,
    BeforeValidator(_text_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "type": {"enum": list(_TEXT_PARTS)},
                            "text": {"type": "string"},
                            "annotations": {"type": "array"},
                            "logprobs": {"type": "array"},
                        },
                        "required": ["type", "text"],
                        "additionalProperties": False,
                    },
                },
            ]
        }
    ),
]
"""Text, or parts that are all text."""


def _asked_values(wishes: Wishes) -> dict[str, Any]:
    values: dict[str, Any] = {
        "max_tokens": wishes.max_tokens,
        "temperature": wishes.temperature,
        "top_p": wishes.top_p,
        "seed": None if wishes.seed is None else wishes.seed % 2**64,
        "stop": wishes.stop or None,
    }
    if wishes.extension is not None:
        values |= wishes.extension.model_dump(include=set(_OURS))
    return {name: value for name, value in values.items() if value is not None}


def _check(name: str, value: Any) -> None:
    try:
        Options.of(**{name: value})
    except InvalidOption as error:
        param = f"a1.{name}" if name in _OURS else name
        raise ApiError(400, str(error), code="invalid_value", param=param) from None


def _capped(options: Options, settings: ServerSettings) -> Options:
    """The operator's defaults never exceed the operator's caps."""
    counts = {name: getattr(options, name) for name in _COUNTS}
    return options.replace(
        **{name: min(count, settings.max_tokens) for name, count in counts.items() if count is not None},
        attempts=min(options.attempts, settings.max_turns),
        chains=min(options.chains, settings.max_chains),
        turns=min(options.turns, settings.max_turns),
        max_tokens=min(options.max_tokens or settings.max_tokens, settings.max_tokens),
        timeout_s=min(options.timeout_s or settings.max_seconds, settings.max_seconds),
    )


def _with_effort(options: Options, wishes: Wishes, settings: ServerSettings) -> Options:
    """An effort and a number of answers that would break the caps get as many chains as they allow."""
    scaled = options if wishes.effort is None else with_effort(options, wishes.effort)
    chains = max(1, min(scaled.chains, settings.max_chains // wishes.n))
    return scaled.replace(chains=chains, turns=min(scaled.turns, settings.max_turns))


def _check_caps(options: Options, wishes: Wishes, settings: ServerSettings) -> None:
    caps = (
        ("n", wishes.n, settings.max_n),
        ("a1.chains", options.chains * wishes.n, settings.max_chains),
        ("a1.turns", options.turns, settings.max_turns),
        ("a1.attempts", options.attempts, settings.max_turns),
        (wishes.max_tokens_name, options.max_tokens or 0, settings.max_tokens),
        ("a1.timeout_s", options.timeout_s or 0, settings.max_seconds),
        *((f"a1.{name}", getattr(options, name) or 0, settings.max_tokens) for name in _COUNTS),
    )
    for name, value, most in caps:
        if value > most:
            over = f"n x chains is {value}" if name == "a1.chains" and wishes.n > 1 else f"{name} is {value}"
            raise ApiError(400, f"{over}; this server allows {most}", code="above_limit", param=name)
