"""A deterministic double of a model: a script writes and scores, the backend keeps the rules of real ones.

Tokens are the bytes of UTF-8, so step limits, stop strings across token borders and characters split over tokens all
occur. Nothing is random beyond the seeds it is given; `jitter` only changes who arrives first.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from a1agent.backends.base import (
    Counters,
    Finish,
    Generated,
    Mark,
    ModelInfo,
    Sampling,
    StepText,
    Stop,
    TokenScores,
    Work,
)
from a1agent.backends.chat_template import ChatTemplate
from a1agent.errors import (
    BackendClosed,
    CannotRewind,
    CannotScore,
    ContextOverflow,
    InvalidOption,
    InvalidQuestion,
    nearest,
)
from a1agent.prompts import find_shown, opens_thought
from a1agent.types import Question

__all__ = ["OPTIONS", "Replies", "Script", "ScriptedBackend", "Sums", "load"]

OPTIONS: dict[str, tuple[type, str]] = {
    "accuracy": (float, "how often a step (sums) or a call (obedient) is right"),
    "noise": (float, "sums: spread of the scores, nats"),
    "can_score": (bool, "whether it may serve as target"),
    "can_rewind": (bool, "whether it can take a step back"),
    "context_length": (int, "tokens (bytes) a sequence may hold"),
    "jitter": (int, "most turns of the event loop a call takes; changes who arrives first, nothing else"),
}

_END = 256


class Script(Protocol):
    """What the model would do."""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        """All that is still to be written after `text`; the turn ends where it ends."""
        ...

    def nll(self, prompt: str, text: str, step: str) -> float:
        """Negative log-likelihood per token (nats) of `step` after `text`."""
        ...


@dataclass(frozen=True, slots=True)
class Sums:
    """Adds the whole numbers of the question one by one, a step each; a step is wrong by one with 1 - accuracy.

    Its scores tell: a wrong step is 2 nats stranger than a right one, give or take `noise`.
    """

    accuracy: float = 1.0
    noise: float = 0.3

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        """The steps that are missing, and the boxed sum."""
        numbers = [int(n) for n in re.findall(r"-?\d+", prompt.rsplit("user:", 1)[-1])]
        sums = re.findall(r"= (-?\d+)\.", text)
        total = int(sums[-1]) if sums else (numbers[0] if numbers else 0)
        steps: list[str] = []
        for number in numbers[1 + len(sums) :]:
            wrong = 0 if rng.random() < self.accuracy else rng.choice((-1, 1))
            steps.append(f"{total} + {number} = {total + number + wrong}.\n\n")
            total += number + wrong
        return "".join(steps) + f"The answer is \\boxed{{{total}}}."

    def nll(self, prompt: str, text: str, step: str) -> float:
        """About 0.5 nats for true statements, 2.5 for false ones."""
        statements = re.findall(r"(-?\d+) \+ (-?\d+) = (-?\d+)", step)
        wrong = any(int(a) + int(b) != int(c) for a, b, c in statements)
        spread = _unit(prompt, text, step) - 0.5
        return max(0.0, 0.5 + 2.0 * wrong + self.noise * spread)


@dataclass(frozen=True, slots=True)
class Replies:
    """Gives one of some canned replies, chosen by the call's seed; every step scores about the same."""

    replies: tuple[str, ...]

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        """The rest of the reply that `text` begins, or a reply."""
        begun = [r for r in self.replies if text and r.startswith(text)]
        return rng.choice(begun)[len(text) :] if begun else rng.choice(self.replies)

    def nll(self, prompt: str, text: str, step: str) -> float:
        """Between 0.5 and 1.5 nats, fixed by the text."""
        return 0.5 + _unit(prompt, text, step)


def _unit(*parts: str) -> float:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


class Service(Protocol):
    """What a model's time is taken from."""

    async def serve(self, to_read: int, to_write: int) -> Work:
        """Returns when so many tokens have been read and then written."""
        ...


@dataclass(slots=True)
class _State:
    decoded_tokens: int = 0
    forwards: int = 0
    alive: int = 0
    closed: bool = False
    arrivals: random.Random = field(default_factory=lambda: random.Random(0))


class ScriptedBackend:
    """A backend over a `Script`."""

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        context_length: int = 65536,
        can_score: bool = True,
        can_rewind: bool = True,
        reuses_prefix: bool = True,
        at_once: int | None = None,
        processor: str | None = None,
        service: Service | None = None,
        jitter: int = 0,
        arrival_seed: int = 0,
        template: ChatTemplate | None = None,
    ) -> None:
        self.script = script
        self.template = template
        self.jitter = jitter
        self.service = service
        self.state = _State(arrivals=random.Random(arrival_seed))
        self._info = ModelInfo(
            name=name,
            fingerprint=hashlib.blake2b(repr(script).encode(), digest_size=16).hexdigest(),
            tokenizer_fingerprint="bytes",
            context_length=context_length,
            can_score=can_score,
            can_rewind=can_rewind,
            reuses_prefix=reuses_prefix,
            at_once=at_once,
            processor=processor,
        )

    @property
    def info(self) -> ModelInfo:
        """What it is and can do."""
        return self._info

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        state = self.state
        return Counters(decoded_tokens=state.decoded_tokens, forwards=state.forwards, sequences_alive=state.alive)

    @property
    def sequence_type(self) -> type[ScriptedSequence]:
        """What `open` makes."""
        return ScriptedSequence

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The bytes of the text."""
        return tuple(text.encode())

    async def open(self, question: Question) -> ScriptedSequence:
        """A sequence over the conversation, a line a message. Raises `ContextOverflow`."""
        prompt = self._prompt(question)
        ids = list(prompt.encode())
        if len(ids) >= self.info.context_length:
            raise ContextOverflow(
                f"the prompt has {len(ids)} tokens, the context of {self.info.name} holds {self.info.context_length}",
                "shorten the question",
            )
        sequence = self.sequence_type(self, prompt, ids, decoded=0, thinking=opens_thought(prompt, question))
        try:
            sequence.prompt_work = await sequence.decode(len(ids) - 1)
        except BaseException:
            await sequence.close()
            raise
        return sequence

    def _prompt(self, question: Question) -> str:
        if self.template is not None:
            return "".join(piece.text for piece in self.template.pieces(question))
        if question.tools:
            raise InvalidQuestion(f"{self.info.name} has no template for tools", "try scripted:obedient", "tools")
        return "".join(f"{m.role}: {m.content}\n" for m in question.messages)

    async def aclose(self) -> None:
        """Later calls raise `BackendClosed`."""
        self.state.closed = True


class ScriptedSequence:
    """A text over a `ScriptedBackend`."""

    def __init__(self, backend: ScriptedBackend, prompt: str, ids: list[int], decoded: int, thinking: bool) -> None:
        self.backend = backend
        self.prompt = prompt
        self.ids = ids
        self.decoded = decoded
        self.prompt_tokens = len(prompt.encode())
        self.prompt_work = Work()
        self.thinking = thinking
        self.open = True
        backend.state.alive += 1

    @property
    def length(self) -> int:
        """Tokens, prompt included."""
        return len(self.ids)

    @property
    def text(self) -> str:
        """What was written after the prompt."""
        return bytes(self.ids[self.prompt_tokens :]).decode(errors="replace")

    async def decode(self, upto: int, written: int = 0, again: int = 0) -> Work:
        """Counts the decoding of all tokens before `upto`, and lets others go first as `jitter` says.

        With a service it takes as long as that takes; the last `written` tokens are written one by one. `again`: tokens
        decoded before that are decoded once more.
        """
        state = self.backend.state
        if state.closed or not self.open:
            raise BackendClosed("the sequence's backend was closed", "open a new one")
        for _ in range(state.arrivals.randint(0, self.backend.jitter) if self.backend.jitter else 0):
            await asyncio.sleep(0)
        new = max(0, upto - self.decoded) + again
        work = Work(decoded_tokens=new, compute_s=new * 1e-6)
        if self.backend.service is not None:
            work = await self.backend.service.serve(new - min(written, new), written)
        work = replace(work, cached_tokens=min(self.decoded, upto) - again, reread_tokens=again)
        self.decoded = max(self.decoded, upto)
        state.decoded_tokens += new
        state.forwards += 1
        return work

    async def generate(self, max_tokens: int, sampling: Sampling, stop: Stop) -> Generated:
        """Writes what the script says up to a stop. Raises `ContextOverflow`."""
        room = self.backend.info.context_length - len(self.ids)
        if room < 1:
            raise ContextOverflow(f"the context of {self.backend.info.name} is full", "ask for fewer turns or tokens")
        rng = random.Random(f"{sampling.seed}\0{self.prompt}\0{self.text}")
        plan = self.backend.script.write(self.prompt, self.text, rng).encode()
        sampled, kept, finish, string = _cut(plan, min(max_tokens, room), stop)
        text = plan[:kept].decode()
        logprob = -self.backend.script.nll(self.prompt, self.text, text)
        work = await self.decode(len(self.ids) + max(sampled - 1, 0), written=sampled)
        self.ids.extend(plan[:kept])
        self.decoded = min(self.decoded, len(self.ids) - 1)
        return Generated(
            step=self._step(text),
            logprobs=(logprob,) * kept,
            finish=finish,
            stop_string=string,
            trimmed_tokens=sampled - kept,
            work=work,
        )

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        """Appends the step; every token of it scores what the script says. Raises `CannotScore`, `ContextOverflow`."""
        if not self.backend.info.can_score:
            raise CannotScore(f"{self.backend.info.name} cannot score", "use it as draft")
        ids = step.text.encode()
        self._check_room(len(ids))
        nll = self.backend.script.nll(self.prompt, self.text, step.text)
        again = 0 if self.backend.info.reuses_prefix else self.decoded
        work = await self.decode(len(self.ids) + len(ids) - (0 if end else 1), again=again)
        self.ids.extend(ids)
        self.decoded = min(self.decoded, len(self.ids) - 1)
        return TokenScores(ids=tuple(ids), logprobs=(-nll,) * len(ids), end=-nll if end else None, work=work)

    def text_of(self, ids: tuple[int, ...]) -> str | None:
        """The text of some bytes; None where they end inside a character."""
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return None

    async def append(self, step: StepText) -> None:
        """Appends the step. Raises `ContextOverflow`."""
        ids = step.text.encode()
        self._check_room(len(ids))
        self.ids.extend(ids)

    def _check_room(self, count: int) -> None:
        if len(self.ids) + count > self.backend.info.context_length:
            raise ContextOverflow(
                f"{len(self.ids)} + {count} tokens do not fit the context of {self.backend.info.name}",
                "ask for fewer turns or tokens",
            )

    def _step(self, text: str) -> StepText:
        return StepText(text=text, ids=tuple(text.encode()), tokenizer_fingerprint="bytes")

    def fork(self) -> ScriptedSequence:
        """An independent copy."""
        copy = type(self)(self.backend, self.prompt, list(self.ids), self.decoded, self.thinking)
        copy.prompt_tokens = self.prompt_tokens
        return copy

    def mark(self) -> Mark:
        """The present end."""
        return Mark(len(self.ids))

    def rewind(self, mark: Mark) -> None:
        """Drops what came after. Raises `CannotRewind`, also for a mark beyond the end."""
        if not self.backend.info.can_rewind:
            raise CannotRewind(f"{self.backend.info.name} cannot rewind", 'use takeover="continue"')
        if mark.length > len(self.ids):
            raise CannotRewind("the mark is beyond the end of the sequence", "rewind to marks of what is still there")
        del self.ids[mark.length :]
        self.decoded = min(self.decoded, len(self.ids) - 1)

    async def close(self, *, resumed: bool = True) -> None:
        """Frees it."""
        if self.open:
            self.open = False
            self.backend.state.alive -= 1


def _cut(plan: bytes, most: int, stop: Stop) -> tuple[int, int, Finish, str | None]:
    """(tokens sampled, tokens kept, why it stopped, the stop string met)."""
    found = [(_place(plan, s, stop.after), s) for s in stop.strings]
    met = [(at, end, s) for at, s in found if at >= 0 and (end := at + len(s.encode())) <= most]
    boundary = _boundary(plan, stop)
    first = min(met, default=None, key=lambda m: m[1])
    if boundary is not None and boundary <= most and (first is None or boundary <= first[0]):
        return boundary, boundary, "stop", None
    if first is not None:
        return first[1], first[0], "stop", first[2]
    if len(plan) < most:
        return len(plan), len(plan), "end", None
    return most, _whole(plan, most, stop), "length", None


def _place(plan: bytes, string: str, after: str) -> int:
    """Where a stop string stands, in bytes; -1 nowhere."""
    text = plan.decode(errors="ignore")
    at = find_shown(text, string, 0, after)
    return at if at < 0 else len(text[:at].encode())


def _boundary(plan: bytes, stop: Stop) -> int | None:
    if stop.boundary is None:
        return None
    mark = stop.boundary.encode()
    at = plan.find(mark, max(0, stop.min_tokens - len(mark)))
    return None if at < 0 else at + len(mark)


def _whole(plan: bytes, most: int, stop: Stop) -> int:
    """Where a text cut by length ends: at a word border when asked and there is one, else at a character's."""
    text = plan[:most].decode(errors="ignore")
    if stop.whole_words and (words := re.match(r"(?s)(.*\S)\s+\S*$", text)):
        return len(words.group(1).encode())
    return len(text.encode())


def load(path: str, **options: Any) -> ScriptedBackend:
    """The backend of `scripted:NAME`: `sums` or `obedient`. Raises `InvalidOption` for others, and their options."""
    name, accuracy = f"scripted:{path}", options.pop("accuracy", 1.0)
    if path == "obedient":
        from a1agent.backends import obedient

        if "noise" in options:
            raise InvalidOption(f"{name} has no noise", "leave it out: how strange a step is follows from its text")
        template = ChatTemplate(obedient.TEMPLATE, obedient.CONTROL, {}, name)
        return ScriptedBackend(obedient.Obedient(accuracy), name=name, template=template, **options)
    if path != "sums":
        raise InvalidOption(f"unknown script {path!r}", nearest(path, ["sums", "obedient"]))
    return ScriptedBackend(Sums(accuracy, options.pop("noise", 0.3)), name=name, **options)
