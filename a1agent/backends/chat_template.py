"""Chat templates: from a question to the text and control tokens of a prompt.

Control tokens come from the template only. A control token spelled out in a message, a tool or a name is broken up with
a private character before the template runs, and put together again as plain text after the control tokens of the
result were found. Templates may trim, split or reorder contents as they like.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from a1agent.backends.chat_options import ChatOptions
from a1agent.backends.text_marks import HARMONY
from a1agent.errors import InvalidOption, InvalidQuestion, UsageError
from a1agent.prompts import MESSAGE_START
from a1agent.types import Question

__all__ = ["PLAIN", "ChatTemplate", "Piece"]

_log = logging.getLogger(__name__)
_PRIVATE = range(0xE000, 0xF8FF)
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")

PLAIN = """{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}

{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of a prompt: plain text, or the text of one control token."""

    text: str
    control: bool


class ChatTemplate:
    """A model's own template. `control`: the texts of its control tokens; `source` None: plain role names and lines.

    `variables`: what templates read besides messages and tools (`bos_token`, `eos_token`). `tool_source`: the template
    of conversations with tools, for models that have one of its own.
    """

    def __init__(
        self,
        source: str | None,
        control: Iterable[str],
        variables: Mapping[str, str],
        name: str = "the model",
        tool_source: str | None = None,
    ) -> None:
        if source is None:
            _log.warning("%s has no chat template: its prompts are plain lines of 'User:' and 'Assistant:'", name)
        self._name = name
        self._control = tuple(sorted((text for text in control if text), key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self._control)) or r"(?!)")
        self._variables: dict[str, Any] = dict(variables)
        self._template, self._names = _compile(source if source is not None else PLAIN, name)
        self._tool_template, names = self._template, self._names
        if tool_source is not None:
            self._tool_template, names = _compile(tool_source, name)
            self._names = self._names | names
        self.takes_tools = "tools" in names

    def set(self, options: ChatOptions) -> None:
        """Tells the template what the options say. Raises `InvalidOption` for one that it does not read."""
        for option, variables in options.template_variables.items():
            read = {name: value for name, value in variables.items() if name in self._names}
            if not read:
                what = f"the chat template of {self._name} has no place for {option}"
                raise InvalidOption(what, f"leave {option} out")
            self._variables |= read

    def pieces(self, question: Question) -> list[Piece]:
        """The prompt of a question, cut at its control tokens.

        When the last message is from the assistant, the prompt ends in the middle of it, so that it is continued.
        Raises `UsageError` when the template refuses the conversation, `InvalidQuestion` for tools it has no place for.
        """
        if question.tools and not self.takes_tools:
            raise InvalidQuestion(
                f"the chat template of {self._name} has no place for tools",
                "use a model that was trained to call tools",
                "tools",
            )
        shield, mark = self._private_characters(question)
        messages = [self._shielded(message.as_dict(), shield) | {"role": message.role} for message in question.messages]
        tools = [self._shielded(dict(tool), shield) for tool in question.tools] or None
        extra = {} if question.response_format is None else {"response_format": dict(question.response_format)}
        if question.messages[-1].role == "assistant":
            text = self._continued(messages, tools, extra, mark)
        else:
            text = self._begun(messages, tools, extra)
        return [Piece(piece.text.replace(shield, ""), piece.control) for piece in self.split(text)]

    def _continued(self, messages: list[Any], tools: list[Any] | None, extra: dict[str, Any], mark: str) -> str:
        marked = {**messages[-1], "content": messages[-1]["content"] + mark}
        text = self._render([*messages[:-1], marked], tools, extra, add_generation_prompt=False)
        if mark in text:
            return text[: text.rindex(mark)].replace(mark, "")
        # The template changes what the assistant said: open its turn anew and put the text in as it is.
        head = self._render(messages[:-1], tools, extra, add_generation_prompt=True)
        return head + messages[-1]["content"]

    def _begun(self, messages: list[Any], tools: list[Any] | None, extra: dict[str, Any]) -> str:
        """The prompt after which the model answers. One that thinks in a message of its own is in its thought there."""
        text = self._render(messages, tools, extra, add_generation_prompt=True)
        thinks = text.endswith(MESSAGE_START) and {*HARMONY.tokens} <= {*self._control}
        return text + "".join(HARMONY.open) if thinks else text

    def _render(
        self, messages: list[Any], tools: list[Any] | None, extra: dict[str, Any], add_generation_prompt: bool
    ) -> str:
        template = self._tool_template if tools else self._template
        try:
            return template.render(
                messages=messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
                **extra,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            what = f"the chat template of {self._name} refuses this conversation: {error}"
            raise UsageError(what, "use the roles and the order that this model was trained on") from error

    def _private_characters(self, question: Question) -> tuple[str, str]:
        """Two characters that occur nowhere in the question."""
        text = repr((question.messages, question.tools, question.response_format))
        text = text.encode(errors="replace").decode("unicode_escape", errors="replace") + "".join(
            message.content for message in question.messages
        )
        free = (chr(code) for code in _PRIVATE if chr(code) not in text)
        try:
            return next(free), next(free)
        except StopIteration:
            raise InvalidQuestion("the question uses every private character of Unicode", "remove them") from None

    def _shielded(self, value: Any, shield: str) -> Any:
        """A copy of a message or tool in which no text contains a control token, or could complete one."""
        if isinstance(value, str):
            return self._broken(value, shield)
        if isinstance(value, Mapping):
            items = cast("Mapping[Any, Any]", value).items()
            return {self._shielded(key, shield): self._shielded(item, shield) for key, item in items}
        if isinstance(value, list | tuple):
            return [self._shielded(item, shield) for item in cast("Iterable[Any]", value)]
        return value

    def _broken(self, text: str, shield: str) -> str:
        def breaking(match: re.Match[str]) -> str:
            return match[0][:1] + shield + match[0][1:]

        previous = None
        while previous != text:  # breaking one token may leave another that overlapped it
            previous, text = text, self._pattern.sub(breaking, text)
        return _guard(text, self._control, shield)

    def split(self, text: str) -> Iterator[Piece]:
        """A text cut at its control tokens."""
        end = 0
        for match in self._pattern.finditer(text):
            if match.start() > end:
                yield Piece(text[end : match.start()], control=False)
            yield Piece(match[0], control=True)
            end = match.end()
        if end < len(text):
            yield Piece(text[end:], control=False)


def _guard(text: str, control: Iterable[str], shield: str) -> str:
    """Keeps the borders of a text from completing a control token together with what stands beside it."""
    for token in control:
        for length in range(1, len(token)):
            if text.endswith(token[:length]) and not token[:length].isspace():
                text = text + shield
            if text.startswith(token[-length:]) and not token[-length:].isspace():
                text = shield + text
    return text


def _compile(source: str, name: str) -> tuple[Template, set[str]]:
    """The template and the names of the variables it reads."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    cast("dict[str, Any]", environment.globals).update(raise_exception=_refuse, strftime_now=_now)
    try:
        plain = _GENERATION.sub("", source)
        return environment.from_string(plain), meta.find_undeclared_variables(environment.parse(plain))
    except TemplateError as error:
        raise UsageError(
            f"the chat template of {name} is damaged: {error}", "use another file of this model"
        ) from error


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
