"""A scripted model that does what it is told: calls the tools its question names, and fills JSON schemas.

It lets agents be tried and tested without a model. What it reads comes through a real chat template of the Hermes
family, and what it writes has to be parsed like the text of any other model.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

__all__ = ["CONTROL", "TEMPLATE", "Obedient"]

CONTROL = ("<|im_start|>", "<|im_end|>")
TEMPLATE = """{%- macro turn(role, content) -%}
<|im_start|>{{ role }}
{{ content }}<|im_end|>
{% endmacro -%}
{%- if tools %}<|im_start|>system
Call a tool by writing its name and arguments as JSON between tags:
<tool_call>
{"name": ..., "arguments": {...}}
</tool_call>
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools><|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == "tool" -%}
{{ turn("user", "<tool_response>\n" + message.content + "\n</tool_response>") }}
{%- elif message.tool_calls -%}
{%- set calls = namespace(text=message.content) -%}
{%- for call in message.tool_calls -%}
{%- set shown = {"name": call.function.name, "arguments": call.function.arguments} -%}
{%- set calls.text = calls.text + "\n<tool_call>\n" + (shown | tojson) + "\n</tool_call>" -%}
{%- endfor -%}
{{ turn("assistant", calls.text) }}
{%- else -%}
{{ turn(message.role, message.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""

_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_TOOLS = re.compile(r"<tools>\n(.*?)\n</tools>", re.DOTALL)
_RESPONSE = re.compile(r"\A(?:<tool_response>\n(.*)\n</tool_response>|Observation:\n(.*))\Z", re.DOTALL)
"""What a tool answered, as the template has it, or as agents write it that know of no messages from tools."""
_SCHEMA = re.compile(r"End your answer with JSON that matches this JSON schema:\n(.*)", re.DOTALL)
_QUOTED = re.compile(r"(?<!\w)['\"](.+?)['\"](?!\w)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_THOUGHT = "I do what I am told.\n\n"


@dataclass(slots=True)
class _Material:
    """Numbers and quoted texts of a request, taken in their order to fill what wants filling."""

    text: str
    numbers: list[str] = field(default_factory=list[str])
    quoted: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.numbers += _NUMBER.findall(self.text)
        self.quoted += _QUOTED.findall(self.text)

    def fill(self, schema: Any, root: Any, within: tuple[str, ...] = ()) -> list[Any]:
        """A value that matches the schema, as far as one can be read off it; none where it would have no end.

        `within`: the references that led here.
        """
        if not isinstance(schema, Mapping):  # true, or false, which nothing matches
            return [self.text] if schema else []
        fields = cast("Mapping[str, Any]", schema)
        if "$ref" in fields:
            return self._at(fields["$ref"], root, within)
        if "const" in fields:
            return [fields["const"]]
        if "enum" in fields:
            return fields["enum"][:1]
        for union in ("anyOf", "oneOf", "allOf"):
            if union in fields:
                tried = (self.fill(each, root, within) for each in fields[union])
                return next(filter(None, tried), list[Any]())
        return [self._of_type(fields, root, within)]

    def _at(self, reference: str, root: Any, within: tuple[str, ...]) -> list[Any]:
        if reference in within:
            return []
        place = root
        for part in reference.split("/")[1:]:
            place = place[part]
        return self.fill(place, root, (*within, reference))

    def _of_type(self, schema: Mapping[str, Any], root: Any, within: tuple[str, ...]) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind:
            case "object":
                fields = cast("dict[str, Any]", schema.get("properties", {}))
                return {name: value for name, inner in fields.items() for value in self.fill(inner, root, within)}
            case "array":
                return self.fill(schema.get("items", {"type": "string"}), root, within)
            case "integer" | "number":
                number = float(self.numbers.pop(0)) if self.numbers else 0.0
                return int(number) if kind == "integer" else number
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return self.quoted.pop(0) if self.quoted else " ".join(self.text.split())[:80]


@dataclass(frozen=True, slots=True)
class Obedient:
    """Calls the tools that the last user message names, in that order, one a turn; then repeats what the last one said.

    One that must call a tool and has none to call begins with the first, and ends with the last. A tool is named by a
    word of its name. Its arguments are the numbers and quoted texts that stand behind it, or before it when it stands
    last; missing numbers come from the last tool's answer. `accuracy`: how often a chain gets its first number right.
    """

    accuracy: float = 1.0

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        """A thought, then a call, JSON, or words."""
        conversation = _Conversation.of(prompt)
        if text.endswith("```json\n"):
            return json.dumps(conversation.json_answer(), ensure_ascii=False) + "\n```"
        if text.endswith("<tool_call>\n"):
            return self._call(conversation, conversation.due, rng) + "\n</tool_call>"
        if text and text != _THOUGHT:
            return ""
        return _THOUGHT.removeprefix(text) + self._answer(conversation, rng)

    def nll(self, prompt: str, text: str, step: str) -> float:
        """Between 0.5 and 1.5 nats, fixed by the text."""
        digest = hashlib.blake2b("\0".join((prompt, text, step)).encode(), digest_size=4).digest()
        return 0.5 + int.from_bytes(digest, "little") / 2**32

    def _answer(self, conversation: _Conversation, rng: random.Random) -> str:
        if conversation.wants_a_call:
            return f"<tool_call>\n{self._call(conversation, conversation.due, rng)}\n</tool_call>"
        if conversation.schema is not None:
            return json.dumps(conversation.json_answer(), ensure_ascii=False)
        if conversation.responses:
            return f"The tools say: {conversation.responses[-1]}"
        return f"You said: {conversation.request}"

    def _call(self, conversation: _Conversation, tool: Mapping[str, Any], rng: random.Random) -> str:
        material = _Material(conversation.behind(tool))
        if conversation.responses:
            material.numbers += _NUMBER.findall(conversation.responses[-1])
        if material.numbers and rng.random() >= self.accuracy:
            material.numbers[0] = str(float(material.numbers[0]) + 1)
        parameters = tool["function"].get("parameters") or {"type": "object"}
        arguments = next(iter(material.fill(parameters, parameters)), None)
        call = {"name": tool["function"]["name"], "arguments": arguments}
        return json.dumps(call, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class _Conversation:
    """What the script reads in a prompt: the tools, the last request, and what tools answered since."""

    tools: list[dict[str, Any]]
    request: str
    responses: list[str]

    @classmethod
    def of(cls, prompt: str) -> _Conversation:
        found = _TOOLS.search(prompt)
        tools = [json.loads(line) for line in found[1].splitlines()] if found else []
        request, responses = "", list[str]()
        for role, content in _TURN.findall(prompt):
            if response := _RESPONSE.match(content):
                responses.append(response[1] or response[2] or "")
            elif role == "user":
                request, responses = content, []
        return cls(tools, request, responses)

    @property
    def schema(self) -> dict[str, Any] | None:
        """The schema that the request asks the answer to match."""
        if found := _SCHEMA.search(self.request):
            return json.loads(found[1])
        if "JSON" not in self.request:
            return None
        keys = _QUOTED.findall(self.request)
        return {"type": "object", "properties": {key: {"type": "string"} for key in keys}}

    def json_answer(self) -> Any:
        """JSON as the request wants it."""
        schema = self.schema or {"type": "object"}
        return next(iter(_Material(_SCHEMA.sub("", self.request)).fill(schema, schema)), None)

    @property
    def named_tools(self) -> list[dict[str, Any]]:
        """Tools that the request names, in its order."""
        named = [tool for tool in self.tools if self._place(tool) is not None]
        return sorted(named, key=lambda tool: self._place(tool) or 0)

    @property
    def wants_a_call(self) -> bool:
        """Whether a tool that the request names was not called yet."""
        return len(self.responses) < len(self.named_tools)

    @property
    def due(self) -> dict[str, Any]:
        """The next tool that the request names. Else the first one shown, and once tools have answered the last one,
        where agents put the tool that ends their work.
        """
        if self.wants_a_call:
            return self.named_tools[len(self.responses)]
        return self.tools[-1] if self.responses else self.tools[0]

    def behind(self, tool: Mapping[str, Any]) -> str:
        """The request from where it names a tool to where it names the next; all of it where that holds nothing.

        For a tool that it does not name: what the last one answered.
        """
        places = sorted(place for other in self.tools if (place := self._place(other)) is not None)
        start = self._place(tool)
        if start is None:
            return self.responses[-1] if self.responses else self.request
        end = next((place for place in places if place > start), len(self.request))
        part = self.request[start:end]
        return part if _NUMBER.search(part) or _QUOTED.search(part) or len(places) > 1 else self.request

    def _place(self, tool: Mapping[str, Any]) -> int | None:
        name = tool["function"]["name"]
        words = [name, *(word for word in re.split(r"[_\W]+", name) if len(word) > 3)]
        places = [at for word in words if (at := self.request.casefold().find(word.casefold())) >= 0]
        return min(places, default=None)
