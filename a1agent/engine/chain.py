"""What the verbs of the data path work on: the call, which all its chains share, and one chain's state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from a1agent.backends.base import Generated, Mark, ModelInfo, Sampling, Sequence, StepText, Stop
from a1agent.config import Options
from a1agent.conformal.calibrators import Calibrator
from a1agent.conformal.scores import ScoreFunction
from a1agent.engine.ahead import Ahead
from a1agent.engine.extract import Answer, holds_box
from a1agent.engine.ranking import Ranking
from a1agent.engine.statement import Statement
from a1agent.events import Event
from a1agent.prompts import (
    BLANK_LINE,
    NEXT_MESSAGE,
    THOUGHT_CLOSING,
    THOUGHT_OPENING,
    announces,
    final_message,
    find_shown,
    is_thinking,
    unshown,
)
from a1agent.types import Author, ChainEnd, ChainResult, Step, Turn

__all__ = ["Call", "Chain", "Marks", "seed_of", "step_of"]

_COLDEST = 1e-6
"""Sampling at a lower temperature is greedy: numbers of 32 bits overflow, and it would draw the same."""
_SLACK_TOKENS = 32
"""Room kept in the context beside the answer, for the words that ask for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One question being answered: all that its chains share. `deadline`: in the event loop's seconds.

    `stating`: a chain is being made to state its answer. With a `ranking` the chains wait for each other at every turn,
    and it decides instead of the calibrator. `screen` says which steps are scored, where not all are.
    `looks_ahead`: the draft writes on while the target reads.
    """

    key: str
    options: Options
    seed: int
    statement: Statement
    draft: ModelInfo
    target: ModelInfo
    calibrator: Calibrator
    score: ScoreFunction
    emit: Callable[[Event], None]
    deadline: float | None = None
    stating: bool = False
    ranking: Ranking | None = None
    screen: Calibrator | None = None
    looks_ahead: bool = False

    def sampling(self, chain: int, turn: int, author: Author, attempt: int = 0) -> Sampling:
        """How the step of this chain and turn is drawn: its seed does not depend on who arrives first."""
        o = self.options
        seed = seed_of(self.seed, self.key, chain, turn, author, attempt)
        able = (self.draft if author == "draft" else self.target).can_constrain
        return Sampling(
            temperature=o.temperature if o.temperature >= _COLDEST else 0,
            top_k=o.top_k,
            top_p=o.top_p,
            min_p=o.min_p,
            seed=seed,
            schema=self.statement.schema if self.stating and able else None,
        )

    def stop(self, text: str, written: int = 0) -> Stop:
        """Where the step after a chain's text ends, so many tokens of which are `written` already.

        A statement in a given format is one, whatever lines it has.
        """
        if self.stating and self.statement.closing is not None:
            return Stop(strings=(*self.options.stop, self.statement.closing), after=unshown(text))
        after = unshown(text) if self.options.stop else ""
        return _stop(max(0, (self.options.min_step_tokens or 0) - written), self.options.stop, after)

    def stopped(self, text: str, generated: Generated) -> tuple[Generated, int]:
        """What was written after a text, and how much of the text stands.

        A stop text that the text begins and what was written completes ends the message before itself, as one within a
        step does: then nothing that was written stands.
        """
        further = generated.step.text
        met = [(at, s) for s in self.options.stop if (at := _begun(text, further, s)) >= 0]
        if not met:
            return generated, len(text)
        at, string = min(met)
        nothing = replace(
            generated,
            step=StepText(text=""),
            logprobs=(),
            finish="stop",
            end=None,
            stop_string=string,
            trimmed_tokens=generated.trimmed_tokens + len(generated.logprobs),
        )
        return nothing, at

    @property
    def closing(self) -> str:
        """What closes a thought. Where a call may follow, models that say which does are left to say it."""
        says = self.statement.calls and self.draft.channels and self.target.channels
        return NEXT_MESSAGE if says else THOUGHT_CLOSING

    @property
    def can_rewind(self) -> bool:
        """Whether what is written can be taken back."""
        return self.draft.can_rewind and self.target.can_rewind

    @property
    def one_tokenizer(self) -> bool:
        """Whether both models cut texts into the same tokens."""
        return self.draft.tokenizer_fingerprint == self.target.tokenizer_fingerprint

    def for_statement(self) -> Call:
        """The call as the step sees it in which a chain states its answer."""
        return replace(self, stating=True)


class Marks(NamedTuple):
    """Where both sequences stood before a step."""

    draft: Mark
    target: Mark


@dataclass(slots=True, kw_only=True)
class Chain:
    """One attempt at the question while it grows. Of a model that is its own target, both sequences are one.

    `lead`: what stands at the end of the text since its last step, and was said for the models.
    """

    index: int
    draft: Sequence
    target: Sequence
    text: str = ""
    lead: str = ""
    turns: list[Turn] = field(default_factory=list[Turn])
    scores: list[float] = field(default_factory=list[float])
    history: list[tuple[int, Answer]] = field(default_factory=list[tuple[int, Answer]])
    tokens: int = 0
    ahead: Ahead | None = None
    ended: bool = False
    end: ChainEnd = "turns"
    answer: Answer | None = None
    read_text: str = ""
    read_message: str = ""
    read_answer: Answer | None = None

    @property
    def own_target(self) -> bool:
        """Whether the draft judges itself."""
        return self.target is self.draft

    @property
    def _sequences(self) -> tuple[Sequence, ...]:
        return (self.draft,) if self.own_target else (self.draft, self.target)

    @property
    def thinking(self) -> bool:
        """Whether its text ends inside a thought."""
        return is_thinking(self.text)

    @property
    def goes_on(self) -> bool:
        """Whether the end of its model's turn is not the end of its message."""
        return self.thinking or announces(self.text)

    def mark(self) -> Marks:
        """Where the chain stands."""
        return Marks(self.draft.mark() if self.ahead is None else self.ahead.mark, self.target.mark())

    def rewind(self, marks: Marks) -> None:
        """Takes both models back. Raises `CannotRewind`."""
        self.draft.rewind(marks.draft)
        if not self.own_target:
            self.target.rewind(marks.target)

    async def append(self, step: StepText) -> None:
        """Adds a text that neither model wrote here; it rides with their next calls."""
        for sequence in self._sequences:
            await sequence.append(step)

    async def say(self, text: str) -> None:
        """Adds a text that is no step of either model."""
        await self.append(StepText(text=text))
        self.text += text
        self.lead += text

    async def open_thought(self) -> None:
        """Begins the text with the thought that the prompt of a model leaves open; the other is given the opening.

        From then on both continue one text, and what it says before `</think>` is read as what it is.
        """
        if not any(sequence.thinking for sequence in self._sequences):
            return
        for sequence in self._sequences:
            if not sequence.thinking:
                await sequence.append(StepText(text=THOUGHT_OPENING))
        self.text = self.lead = THOUGHT_OPENING

    def room(self, call: Call, drafted: int = 0, unread: int = 0) -> int:
        """Tokens left in both contexts and under `max_tokens`, less what stating the answer takes.

        With a step of so many tokens `drafted`: what will be left if it stays; `unread` of them are still to be scored.
        """
        drafts = self.draft.length if self.ahead is None else self.ahead.mark.length
        targets = self.target.length + unread
        left = min(call.draft.context_length - drafts, call.target.context_length - targets) - _SLACK_TOKENS
        if not call.one_tokenizer:
            left = int(left / self._finer(drafts, targets))
        left -= call.statement.tokens
        if call.options.max_tokens is not None:
            left = min(left, call.options.max_tokens - self.tokens - drafted)
        return left

    def _finer(self, drafts: int, targets: int) -> float:
        """How many times finer one tokenizer has cut the text so far than the other."""
        ours, theirs = drafts - self.draft.prompt_tokens, targets - self.target.prompt_tokens
        return (max(ours, theirs) + _SLACK_TOKENS) / (min(ours, theirs) + _SLACK_TOKENS)

    def keep(self, text: str, tokens: int, score: float | None) -> None:
        """Adds what stays of a rejected step, with a score of its own if it has one."""
        if score is not None:
            self.scores.append(score)
        self.text += text
        self.tokens += tokens

    def cut(self, length: int) -> None:
        """Drops what of the text stands after so many characters: the beginning of a stop text."""
        self.text = self.text[:length]

    def grow(self, generated: Generated, step: Step, score: float | None) -> None:
        """Adds what a model wrote, as the step it is, to the text, with its score under the target if it has one."""
        if score is not None:
            self.scores.append(score)
        self.text += step.text
        self.lead = ""
        self.tokens += step.tokens
        self.ended = _ends_message(generated)

    def would_end(self, call: Call, drafted: Generated) -> bool:
        """Whether the chain would end if a drafted step stays."""
        return _ends_message(drafted) or self.states_answer(call, drafted.step.text)

    def states_answer(self, call: Call, further: str = "") -> bool:
        """Whether the message already states an answer that ends the chain, with a `further` text at its end."""
        return call.statement.early and holds_box(final_message(self.text + further))

    def lacks_answer(self, call: Call) -> bool:
        """Whether the message states none of the answers that the call must have."""
        return call.statement.required and self._read(call) is None

    def close(self, call: Call, end: ChainEnd) -> None:
        """Reads the answer the chain ended with."""
        self.end = end
        self.answer = self._read(call)

    def remember(self, call: Call, turn: int) -> None:
        """Keeps the answer the chain holds after a turn, for the vote over time."""
        answer = self._read(call)
        if answer is not None:
            self.history.append((turn, answer))

    def _read(self, call: Call) -> Answer | None:
        """The answer in the message. What was read before is not read again while nothing new can be an answer."""
        if self.text != self.read_text:
            message = final_message(self.text)
            grown = self.read_answer is None and message.startswith(self.read_message)
            if not grown or call.statement.may_state(message, len(self.read_message)):
                self.read_answer = call.statement.read(message)
            self.read_text, self.read_message = self.text, message
        return self.read_answer

    async def close_sequences(self, *, resumed: bool) -> None:
        """Frees what it holds in both models, even if it is cancelled meanwhile.

        `resumed`: the next turn of the conversation may go on from its text.
        """
        try:
            await self.draft.close(resumed=resumed)
        finally:
            await self.target.close(resumed=resumed)

    def result(self, error: str | None = None) -> ChainResult:
        """The chain as a frozen value."""
        return ChainResult(
            index=self.index,
            text=self.text,
            answer=self.answer.text if self.answer else None,
            turns=tuple(self.turns),
            end=self.end,
            error=error,
            token_count=self.tokens,
            scores=tuple(self.scores),
        )


@lru_cache(maxsize=64)
def _stop(min_tokens: int, strings: tuple[str, ...], after: str) -> Stop:
    return Stop(boundary=BLANK_LINE, min_tokens=min_tokens, strings=strings, after=after)


def _begun(text: str, further: str, string: str) -> int:
    """Where in a text a string begins that a further text completes; -1 nowhere."""
    at = find_shown(text + further, string, max(0, len(text) - len(string) + 1), "")
    return at if at < len(text) else -1


def _ends_message(generated: Generated) -> bool:
    """The end of the turn and a stop string of the caller both end the message."""
    return generated.finish == "end" or generated.stop_string is not None


def step_of(generated: Generated, author: Author) -> Step:
    """A generated text as a step of its author."""
    return Step(text=generated.step.text, author=author, tokens=len(generated.logprobs))


def seed_of(seed: int, *parts: object) -> int:
    """A 32-bit seed hashed from a call's seed and what it is for."""
    digest = hashlib.blake2b(repr((seed, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")
