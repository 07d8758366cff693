"""The tokenizer of a server, asked over the wire. Each text is asked for once."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from a1agent.backends.chat_options import ChatOptions
from a1agent.backends.http import Http, Line
from a1agent.backends.sentinel import PROBES, SENTINELS, find_sentinel
from a1agent.backends.text_marks import SPELLINGS, TextMarks, find_marks
from a1agent.backends.vocabulary import Prompt
from a1agent.call_formats import CALL_TOKENS, CHANNEL_TOKENS
from a1agent.errors import InvalidOption
from a1agent.prompts import THINK_OPEN, opens_thought
from a1agent.types import Message, Question

__all__ = ["PROBE", "AskIds", "ServerTokenizer"]

PROBE = "The sum of 12 and 7 is 19,\n\nso f(x) = x² holds for every naïve Δ; 数学 と 12345.678 <b>!</b>\t\\boxed{19}\n"
"""A text that different tokenizers cut differently."""

_MOST_KNOWN = 8192
# How the families of models spell the tokens that a text must never contain as such.
_CONTROL = re.compile(
    r"<[|｜][^<>\s]{1,40}?[|｜]>|\[/?[A-Z_]{2,30}\]|</?(?:s|unk|pad|bos|eos|start_of_turn|end_of_turn)>"
    r"|</?seed:[a-z_]{1,30}>|<\|[^<>|\s]{1,40}>|<[^<>|\s]{1,40}\|>|◁/?think▷|｜DSML｜"
    r"|\[\|[^\[\]|\s]{1,40}\|\]|\]~!?b[\[\]]|\[e~\[|<[A-Z_]{2,30}>"
)
_BREAK = "\u200b"
_THOUGHT_ENDS = ("", "\n", "\n\n")
"""What templates put after the `<think>` that they open."""

AskIds = Callable[[Line, str], Awaitable[list[int]]]
AskPrompt = Callable[[Line, dict[str, Any]], Awaitable[list[int]]]


class ServerTokenizer:
    """Text to ids, and prompts. `tokenize` blocks for a text not seen before; `learn` does not.

    `ask_control`: ids of a text in which control tokens count, where `ask_ids` takes them for plain text.

    A server parses control tokens wherever it finds them. The usual spellings are cut in two before they are sent, and
    in messages kept apart by a character without width; only a local tokenizer (`tokenizer=`) knows all of them.
    """

    exact = False
    size = 2**31

    def __init__(
        self, http: Http, name: str, ask_ids: AskIds, ask_prompt: AskPrompt, ask_control: AskIds | None = None
    ) -> None:
        self.name = name
        self.fingerprint = ""
        self.end_ids: frozenset[int] = frozenset()
        self.marks: TextMarks | None = None
        self._http = http
        self._ask_ids = ask_ids
        self._ask_prompt = ask_prompt
        self._ask_control = ask_control or ask_ids
        self._known: dict[str, list[int]] = {}
        self._control: dict[str, list[int]] = {}
        self._sentinel: tuple[str, list[int]] = ("", [])
        self._openings: list[list[int]] = []
        self._knows_calls = False

    async def start(self) -> None:
        """Finds out what the vocabulary does to the start of a text."""
        line, word, both, probe = await asyncio.gather(*(self._ask(text) for text in ("\n", "a", "\na", PROBE)))
        if both[len(line) :] != word:  # a space is put before a text
            texts = [*SENTINELS, *(s + p for s in SENTINELS for p in PROBES)]
            found = await asyncio.gather(*(self._ask(text) for text in texts))
            self._sentinel = find_sentinel(dict(zip(texts, found, strict=True)).__getitem__)
        digest = hashlib.blake2b(repr((self.name, probe)).encode(), digest_size=16)
        self.fingerprint = f"server-{digest.hexdigest()}"
        self.marks = await self._find_marks()
        if self._http.options.thinking != "auto":
            await self._check_thinking()

    async def learn(self, text: str) -> list[int]:
        """Ids of a text that continues another."""
        if text not in self._known:
            parts = [(text, ())] if self.marks is None else self.marks.parts(text)
            ids = [token for rest, mark in parts for token in (*await self._plain(rest), *mark)]
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[text] = ids
        return self._known[text]

    def tokenize(self, text: str) -> list[int]:
        """As `learn`, for callers outside of event loops."""
        known = self._known.get(text) if text else []
        return known if known is not None else self._http.thread.wait(self.learn(text))

    def piece(self, token: int) -> bytes:
        """Servers stream text beside ids; the bytes of an id alone are not known."""
        raise NotImplementedError

    async def encode(self, question: Question) -> Prompt:
        """The prompt of a question in token ids, through the server's chat template."""
        messages = [(await self._broken(message)).as_dict() for message in question.messages]
        started = question.messages[-1].role == "assistant"
        body: dict[str, Any] = {
            "messages": messages,
            "add_generation_prompt": not started,
            "continue_final_message": started,
        }
        if told := self._http.options.all_variables:
            body["chat_template_kwargs"] = told
        if question.tools:
            body["tools"] = [dict(tool) for tool in question.tools]
            await self._find_call_marks()
        ids = await self._http.call(lambda line: self._ask_prompt(line, body))
        opened = not started and any(ids[-len(each) :] == each for each in await self._thought_openings())
        if self.marks is not None and self.marks.ends and not started and not opened:
            ids, opened = [*ids, *self.marks.open_ids], True
        return Prompt(ids, opens_thought(THINK_OPEN if opened else "", question))

    def close(self) -> None:
        """Nothing is held."""

    async def _broken(self, message: Message) -> Message:
        content = message.content
        for spelled in set(_CONTROL.findall(content)):
            if await self._is_control(spelled):
                content = content.replace(spelled, spelled[0] + _BREAK + spelled[1:])
        return dataclasses.replace(message, content=content)

    async def _plain(self, text: str) -> list[int]:
        parts = await asyncio.gather(*(self._after_sentinel(part) for part in await self._parts(text)))
        return [token for part in parts for token in part]

    async def _parts(self, text: str) -> list[str]:
        """A text cut inside of every control token it spells out."""
        cuts = [match.start() + 1 for match in _CONTROL.finditer(text) if await self._is_control(match[0])]
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]

    async def _check_thinking(self) -> None:
        """Raises `InvalidOption` for a template that is the same whether it is told to think or not."""
        prompts: list[list[int]] = []
        for thinking in ("on", "off"):
            told = ChatOptions(thinking=thinking).all_variables
            body = {"messages": [Message(role="user", content="a").as_dict()], "add_generation_prompt": True}
            body |= {"continue_final_message": False, "chat_template_kwargs": told}
            prompts.append(await self._http.call(lambda line, body=body: self._ask_prompt(line, body)))
        if prompts[0] == prompts[1]:
            raise InvalidOption(f"the chat template of {self.name} has no place for thinking", "leave thinking out")

    async def _find_call_marks(self) -> None:
        """With the first call that has tools: few have."""
        if not self._knows_calls:
            self.marks = await self._find_marks(await self._single(CALL_TOKENS | CHANNEL_TOKENS))
            self._knows_calls = True
            self._known.clear()

    async def _find_marks(self, calls: Mapping[str, int] = MappingProxyType({})) -> TextMarks | None:
        """Those that are control tokens. `<think>` is taken for a word of the texts, as it is for most models."""
        spellings = [spelling for spelling in SPELLINGS if not spelling.loose]
        there = await asyncio.gather(*(self._is_control(spelling.open[0]) for spelling in spellings))
        known = [spelling for spelling, found in zip(spellings, there, strict=True) if found]
        words = {word: await self._plain(word) for spelling in known for word in spelling.words}
        tokens = {**calls, **await self._single(token for spelling in known for token in spelling.tokens)}
        return find_marks(tokens, tokens, words.__getitem__)

    async def _single(self, spelled: Iterable[str]) -> dict[str, int]:
        """The ids of those that are one token each."""
        texts = [*spelled]
        found = await asyncio.gather(*map(self._own_ids, texts))
        return {text: ids[0] for text, ids in zip(texts, found, strict=True) if len(ids) == 1}

    async def _thought_openings(self) -> list[list[int]]:
        """Ids that a prompt ends in when its template opens a thought."""
        if not self._openings:
            prefix, ids = self._sentinel
            spelling = None if self.marks is None else self.marks.spelling
            mark = THINK_OPEN if spelling is None else "".join(spelling.open).rstrip()
            found = await asyncio.gather(*(self._control_ids(prefix + mark + end) for end in _THOUGHT_ENDS))
            self._openings = [each[len(ids) :] for each in found]
        return self._openings

    async def _is_control(self, spelled: str) -> bool:
        return len(await self._own_ids(spelled)) == 1

    async def _own_ids(self, spelled: str) -> list[int]:
        if spelled not in self._control:
            prefix, ids = self._sentinel
            self._control[spelled] = (await self._control_ids(prefix + spelled))[len(ids) :]
        return self._control[spelled]

    async def _after_sentinel(self, text: str) -> list[int]:
        prefix, ids = self._sentinel
        return (await self._ask(prefix + text))[len(ids) :]

    async def _control_ids(self, text: str) -> list[int]:
        return await self._http.call(lambda line: self._ask_control(line, text))

    async def _ask(self, text: str) -> list[int]:
        return await self._http.call(lambda line: self._ask_ids(line, text))
