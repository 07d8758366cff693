"""Any server with OpenAI's API, as draft: `openai:http://HOST:PORT#MODEL`.

Such servers score no given text, so they cannot be the target. What a chain has written so far must be continued by the
next call; how, depends on the server, which is recognized by what it offers beside the API:

| server | how a text is continued | what a count of tokens is |
|---|---|---|
| llama-server (llama.cpp) | `/completion` with token ids; its own template and tokenizer | exact |
| vLLM, SGLang | `/v1/chat/completions` with `continue_final_message` | an estimate; better `vllm:` and `sglang:` |
| Ollama | `/v1/chat/completions`; a last message of the assistant is continued by itself | an estimate |
| TGI | `/v1/completions` with the prompt as text | an estimate |
| api.deepseek.com, api.mistral.ai | `/v1/chat/completions` with `prefix` in the last message | an estimate |
| others (LM Studio, llama-cpp-python, ...) | `/v1/completions` with the prompt as text | an estimate |

`api=` (chat, completions) and `continuation=` (final_message, prefix, trailing) overrule this. Raw completions need the
chat template: `tokenizer=` names the model's tokenizer; without it a prompt is plain lines of role names. In
chats too questions with tools need it: it tells whether the model takes any.
llama-cpp-python's server breaks off what it writes when it is asked for more: it is asked for one text at a time.
Log-probabilities are told by llama-server only; elsewhere those of a written step are not numbers.
A chain goes on from all that its model wrote: where a server takes thoughts or tool calls out of a chat's text, as one
with a parser for them does, an error says so. Fields that a server refuses are left out where nothing depends on them.
Where a chain states its answer, llama-server and chats hold the model to a JSON schema.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel

from a1agent.backends.base import Sampling
from a1agent.backends.chat_options import ChatOptions
from a1agent.backends.http import Http, Line, Refused
from a1agent.backends.llama_server import LlamaServerWire, Props
from a1agent.backends.plain_text import PlainText
from a1agent.backends.remote import RemoteBackend
from a1agent.backends.retries import BadReply, may_pass
from a1agent.backends.server_check import TOKENIZER_HINT, Served, assemble, connect, find_model, given_tokenizer
from a1agent.backends.server_options import OPTIONS as SERVER_OPTIONS
from a1agent.backends.server_options import ServerAddress, ServerOptions
from a1agent.backends.server_tokenizer import ServerTokenizer
from a1agent.backends.vocabulary import ChatTokenizer
from a1agent.backends.wire import UNKNOWN, Chunk, Read, Scored, Text, parsed, schema_format
from a1agent.errors import A1Error, BackendError, CannotScore, InvalidOption, nearest
from a1agent.types import Question

__all__ = ["OPTIONS", "OpenAIWire", "check_path", "load"]

check_path = ServerAddress.of

OPTIONS: dict[str, tuple[type, str]] = {
    **SERVER_OPTIONS,
    "api": (str, "what is asked: chat, completions, or auto"),
    "continuation": (str, "how a chat goes on in the middle of a message: final_message, prefix, trailing, or auto"),
}

_log = logging.getLogger(__name__)
_APIS = ("auto", "chat", "completions")
_CONTINUATIONS = ("auto", "final_message", "prefix", "trailing")
_PREFIX_HOSTS = ("api.deepseek.com", "api.mistral.ai")
_CONTEXT = 4096
_DISPENSABLE = ("seed", "stream_options")  # what is drawn, and from what, does not depend on them
_GIVEN_UP = ("abort", "error")
_NO_SCORE = "servers with OpenAI's API tell no log-probabilities of a given text"

Way = tuple[str, str]
Told = TypeVar("Told", bound=BaseModel)


class _Delta(BaseModel):
    content: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    @property
    def piece(self) -> str:
        """What it adds to the text."""
        return self.text or (self.delta and self.delta.content) or ""

    @property
    def thinks(self) -> bool:
        """Whether it has a thought beside the text."""
        return self.delta is not None and bool(self.delta.reasoning or self.delta.reasoning_content)

    @property
    def calls(self) -> bool:
        """Whether it has a tool call beside the text."""
        return self.delta is not None and bool(self.delta.tool_calls)


class _Details(BaseModel):
    cached_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Event(BaseModel):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Info(BaseModel):
    """What TGI says of itself."""

    max_total_tokens: int


class _Version(BaseModel):
    """What Ollama and vLLM say of themselves, each at a place of its own."""

    version: str


class _ModelPath(BaseModel):
    """What SGLang says of itself."""

    model_path: str


class _Api(BaseModel):
    """What llama-cpp-python's server says of its API."""

    title: Literal["🦙 llama.cpp Python API"]


class _Described(BaseModel):
    info: _Api


class OpenAIWire:
    """What OpenAI's API calls things. `way`: the API, and how a message is continued with it.

    `takes_all`: a `top_p` of 1 may be sent; TGI refuses it, where others would put a default of their own in its place.
    """

    can_score = False

    def __init__(self, model: str, way: Way, text: PlainText, told: ChatOptions, takes_all: bool = True) -> None:
        self.model = model
        self.way = way
        self.takes_all = takes_all
        self._text = text
        self._refused: set[str] = set()
        variables = told.template_variables
        self._told = dict(variables.get("reasoning_effort", {}))
        if "thinking" in variables:
            self._told["chat_template_kwargs"] = variables["thinking"]
        self.can_constrain = way[0] == "chat"  # completions have no field for a schema that servers agree on

    def raw(self, sampling: Sampling) -> bool:
        """None are told."""
        return True

    async def warm(self, line: Line, text: Text) -> Read | None:
        """Hosted models charge for what they read."""
        return None

    async def write(
        self, line: Line, text: Text, limit: int, sampling: Sampling, interval: int
    ) -> AsyncGenerator[Chunk]:
        """Streams a completion. Fields that are not needed are not sent: some servers refuse those they do not know."""
        assert isinstance(text.source, Question)
        written = self._text.text(text.ids[text.prompt :])
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": limit,
            "stream": True,
            "temperature": sampling.temperature,
            "seed": sampling.seed & 0x7FFFFFFF,
        }
        if self.takes_all or sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        body |= {name: value for name in ("top_k", "min_p") if (value := getattr(sampling, name))}
        if self.way[0] == "chat":
            path, more = "/v1/chat/completions", _chat(text.source, written, self.way[1]) | self._told
        else:
            path, more = "/v1/completions", {"prompt": await self._text.render(text.source) + written}
            more |= {"stop": self._text.stops} if self._text.stops else {}
        if sampling.schema is not None and self.can_constrain:
            body["response_format"] = schema_format(sampling.schema)
        thought = wrote = False
        async with aclosing(self._events(line, path, body | more)) as events:
            async for data in events:
                event = parsed(_Event, data, line)
                for choice in event.choices:
                    thought, wrote = thought or choice.thinks, wrote or bool(choice.piece)
                    _check(line, choice, only_thought=thought and not wrote)
                    yield self._chunk(choice)
                if event.usage is not None:
                    details = event.usage.prompt_tokens_details
                    cached = details.cached_tokens if details else None
                    yield Chunk(read=Read(event.usage.prompt_tokens, cached, exact=False))

    async def _events(self, line: Line, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of a stream, without the fields that the server refuses, where those can be done without."""
        begun, sent = False, {name: value for name, value in body.items() if name not in self._refused}
        try:
            async with aclosing(line.events(path, sent)) as events:
                async for event in events:
                    begun = True
                    yield event
            return
        except Refused as error:
            named = {name for name in _DISPENSABLE if name in sent and re.search(rf"\b{name}\b", error.what)}
            if begun or not named:
                raise
            _log.warning("%s does not take %s: done without", line.url, ", ".join(sorted(named)))
            self._refused |= named
        async with aclosing(self._events(line, path, body)) as events:
            async for event in events:
                yield event

    def _chunk(self, choice: _Choice) -> Chunk:
        piece = choice.piece
        finish: Literal["end", "length"] | None = None
        if choice.finish_reason is not None:
            finish = "length" if choice.finish_reason == "length" else "end"
        return Chunk(
            ids=(self._text.id_of(piece),) if piece else (),
            logprobs=(UNKNOWN,) if piece else (),
            text=piece,
            finish=finish,
        )

    async def score(self, line: Line, ids: list[int], start: int) -> Scored:
        """Raises `CannotScore`."""
        raise CannotScore(_NO_SCORE, "use this server as draft")


def _check(line: Line, choice: _Choice, only_thought: bool) -> None:
    """Raises where the text is not what the model wrote. `only_thought`: it thought, and wrote nothing so far."""
    if choice.finish_reason in _GIVEN_UP:
        raise BadReply(f"{line.url} gave the request up ({choice.finish_reason})", "see the server's log")
    apart = "a tool call" if choice.calls else "thoughts" if only_thought and choice.finish_reason else ""
    if apart:
        raise BackendError(
            f"{line.url} took {apart} out of what the model wrote: a chain cannot go on from the rest",
            "start the server without a parser for that, or use ?api=completions&tokenizer=PATH (the model's)",
        )


def _chat(question: Question, written: str, continuation: str) -> dict[str, Any]:
    """The conversation with what was written so far as a message that is to be continued."""
    messages = [message.as_dict() for message in question.messages]
    if messages[-1]["role"] == "assistant":
        messages[-1] = {**messages[-1], "content": messages[-1]["content"] + written}
    elif written:
        messages.append({"role": "assistant", "content": written})
    body: dict[str, Any] = {"messages": messages, "stream_options": {"include_usage": True}}
    if messages[-1]["role"] == "assistant":
        if continuation == "prefix":
            messages[-1] = {**messages[-1], "prefix": True}
        elif continuation == "final_message":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
    if question.tools:
        body["tools"] = [dict(tool) for tool in question.tools]
    return body


async def _way(http: Http) -> Way:
    """How texts are continued on the server that is there."""
    if any(urlsplit(replica.url).hostname in _PREFIX_HOSTS for replica in http.replicas.all):
        return "chat", "prefix"
    if await _told(http, "/api/version", _Version):
        return "chat", "trailing"
    places = (("/version", _Version), ("/model_info", _ModelPath), ("/get_model_info", _ModelPath))
    for path, kind in places:
        if await _told(http, path, kind):
            return "chat", "final_message"
    return "completions", "auto"


async def _start(http: Http, model: str, way: Way) -> RemoteBackend:
    served = await find_model(http, model)
    props = await _told(http, "/props", Props, wait=True) if way[0] == "auto" else []
    if props:
        return await _llama_server(http, served, min(each.default_generation_settings.n_ctx for each in props))
    info = await _told(http, "/info", _Info)
    if await _told(http, "/openapi.json", _Described):
        http.ask_singly()
    if way[0] == "auto":
        found = ("completions", "auto") if info else await _way(http)
        way = (found[0], found[1] if way[1] == "auto" else way[1])
    local = await given_tokenizer(http, None)
    if way[0] != "chat" and local is None and http.options.template_variables:
        what = f"{', '.join(http.options.template_variables)}: no chat template of {served.name} is at hand to be told"
        raise InvalidOption(what, TOKENIZER_HINT)
    text = PlainText(served.name, local, chat=way[0] == "chat")
    if not served.context_length:
        served = replace(served, context_length=min(each.max_total_tokens for each in info) if info else _CONTEXT)
    wire = OpenAIWire(served.name, way, text, http.options, takes_all=not info)
    return await assemble(http, wire, text, "openai", served, _NO_SCORE, True)


async def _told(http: Http, path: str, kind: type[Told], wait: bool = False) -> list[Told]:
    """What every replica says of itself at a path that only one kind of server has; nothing of another.

    A reply is not enough: LM Studio answers any path, with an error and status 200. `wait`: one that is not ready may
    be of that kind, as llama-server lists its model while it loads it; raises when it does not get ready.
    """

    async def ask(line: Line) -> Told | None:
        try:
            return parsed(kind, await line.get(path), line)
        except A1Error as error:
            if wait and may_pass(error):
                raise
            return None

    told = await http.each(ask)
    return [each for each in told if each is not None] if all(told) else []


async def _llama_server(http: Http, served: Served, allowed: int) -> RemoteBackend:
    wire = LlamaServerWire()
    tokenizer: ChatTokenizer | None = await given_tokenizer(http, wire.ids)
    if tokenizer is None:
        tokenizer = ServerTokenizer(http, served.name, wire.ids, wire.prompt, wire.control_ids)
        await tokenizer.start()
    if served.context_length > allowed:
        raise InvalidOption(f"context_length={served.context_length}, but {http} allows {allowed}", "use at most that")
    served = replace(served, context_length=served.context_length or allowed)
    return await assemble(http, wire, tokenizer, "openai", served, _NO_SCORE, True)


def load(path: str, **options: Any) -> RemoteBackend:
    """The backend of `openai:URL#MODEL`; asks the server what it is. `OPTIONS` lists the options.

    Raises `InvalidOption`, `ModelNotFound`, `ModelLoadError`, `BackendError`.
    """
    way = (str(options.pop("api", "auto")), str(options.pop("continuation", "auto")))
    for name, value, known in (("api", way[0], _APIS), ("continuation", way[1], _CONTINUATIONS)):
        if value not in known:
            raise InvalidOption(f"unknown {name}={value!r}", nearest(value, known))
    return connect(path, ServerOptions.of(options), lambda http, model: _start(http, model, way))
