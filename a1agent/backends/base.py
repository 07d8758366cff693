"""The common interface: backends hold growing texts (sequences) that keep their KV cache.

The engine works with sequences, never with stateless completion calls: a chain that grows over many turns is
prefilled once. Every method of a sequence that reaches the model is a coroutine and never blocks the event loop.

Invariants every backend keeps (tested by `tests/backends/contract.py`):

* A sequence is a list of token ids of which all but a pending tail are in the KV cache. Text already in it is never
  tokenized again.
* One sampled (or last prompt) token may be pending, not yet decoded: scoring k tokens decodes k, a fork decodes its
  pending token with its first call, nothing else.
* A cancelled call leaves the sequence as it was before the call.
* One call at a time per sequence; different sequences run concurrently and share batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from a1agent.types import Question

__all__ = [
    "Backend",
    "Counters",
    "Finish",
    "Generated",
    "Mark",
    "ModelInfo",
    "Sampling",
    "Sequence",
    "StepText",
    "Stop",
    "TokenScores",
    "Work",
]

Finish = Literal["stop", "length", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model is and can do. Fingerprints are hex digests: equal tokenizers give equal ids for any text.

    `scores_as_it_writes`: the log-probabilities of what it writes, that of ending the turn included, are those that
    scoring the same text would give; a model that judges its own steps then need not read them again.
    `at_once`: chains beyond which more at a time gain nothing, so that further questions wait in line; None: no bound.
    `processor`: what runs it; models with different ones do not slow each other down.
    `can_constrain`: it can be held to a JSON schema while it writes.
    `can_spell`: its sequences tell the text of single tokens (`Sequence.text_of`).
    `channels`: after a thought it says itself whether an answer or a call of a tool follows (gpt-oss).
    `no_score_reason`: why it cannot score, where there is more to say.
    """

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    context_length: int
    can_score: bool = True
    can_rewind: bool = True
    reuses_prefix: bool = True
    at_once: int | None = None
    scores_as_it_writes: bool = False
    can_constrain: bool = False
    can_spell: bool = True
    channels: bool = False
    processor: str | None = None
    no_score_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy; `top_k` 0 keeps all; `seed` makes a call repeatable.

    `schema`: a JSON schema that all the model writes, up to the end of its turn, must match; only for models that can
    be held to one, and as far as they know its keywords.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where generation stops besides the end of the turn.

    `boundary` ends a step and belongs to it (with any white space of the token that completes it); it is looked for
    only once `min_tokens` are there. `strings` end the text before themselves, at any time but in a thought, and are
    dropped; `after` is the `<think>` or `</think>` after which nothing was shown before this text.
    With `whole_words`, a text cut by length ends at a word and UTF-8 border and its tail is rewound.
    """

    boundary: str | None = None
    min_tokens: int = 0
    strings: tuple[str, ...] = ()
    after: str = ""
    whole_words: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StepText:
    """A step as it crosses from one model to another: text, and ids with the fingerprint of their tokenizer."""

    text: str
    ids: tuple[int, ...] | None = None
    tokenizer_fingerprint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a call cost. `compute_s`: its share (by tokens) of the forwards it rode in; `waiting_s`: time in no forward.

    `decoded_tokens`: every token the model ran on for this call; `cached_tokens`: those before the call's own that were
    found in the cache; `reread_tokens`: those that had been read before and were read again, for want of a cache.
    Of a server that does not tell, the last two are 0.
    """

    decoded_tokens: int = 0
    cached_tokens: int = 0
    reread_tokens: int = 0
    compute_s: float = 0.0
    waiting_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What a model wrote, appended to its sequence.

    `logprobs`: natural log-probability of each id of `step` under the unmodified distribution (temperature 1, no
    truncation). `finish`: `stop` (boundary or stop string), `length`, or `end` (the model ended its turn; the end token
    is not part of the step and not in the sequence). `end`: log-probability of ending the turn there, where it did so
    and the backend tells. `stop_string`: the string of `Stop.strings` met, else None.
    `trimmed_tokens`: sampled and rewound again.
    """

    step: StepText
    logprobs: tuple[float, ...]
    finish: Finish
    end: float | None = None
    stop_string: str | None = None
    trimmed_tokens: int = 0
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenScores:
    """Natural log-probability of each token of a scored step; `end`: that of ending the turn after it, when asked."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    end: float | None = None
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a sequence to rewind to: how many tokens it had."""

    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What a backend has done since it was made; tests pin these instead of seconds.

    `cells`: tokens that its KV cache holds at most, all sequences together; 0 where that is not this process's to know.
    """

    decoded_tokens: int = 0
    forwards: int = 0
    sequences_alive: int = 0
    cells_used: int = 0
    cells: int = 0


@runtime_checkable
class Sequence(Protocol):
    """One growing text in a model's cache."""

    @property
    def length(self) -> int:
        """Tokens in the sequence, prompt included."""
        ...

    @property
    def prompt_work(self) -> Work:
        """What opening the prompt cost; of a fork: nothing."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        ...

    @property
    def thinking(self) -> bool:
        """Whether the prompt ends inside a thought, so that what follows needs no `<think>`; False if unknown."""
        ...

    async def generate(self, max_tokens: int, sampling: Sampling, stop: Stop) -> Generated:
        """Samples up to `max_tokens` tokens and appends them.

        Raises `ContextOverflow` when not even one token fits, `BackendError` when the model fails.
        """
        ...

    async def score(self, step: StepText, end: bool = False) -> TokenScores:
        """Appends the step and returns the log-probability of each of its tokens; with `end`, of ending the turn too.

        Raises `CannotScore`, `ContextOverflow` (the sequence is as before), `BackendError`.
        """
        ...

    def text_of(self, ids: tuple[int, ...]) -> str | None:
        """The text of tokens of this model; None where they end inside a character, or the model cannot tell."""
        ...

    async def append(self, step: StepText) -> None:
        """Appends the step without running the model: it rides with the next call."""
        ...

    def fork(self) -> Sequence:
        """An independent sequence with the same text; shares the prefix in the cache and decodes nothing."""
        ...

    def mark(self) -> Mark:
        """The present end of the sequence."""
        ...

    def rewind(self, mark: Mark) -> None:
        """Drops what came after `mark`. Raises `CannotRewind` where the model cannot."""
        ...

    async def close(self, *, resumed: bool = True) -> None:
        """Frees the sequence, also when it is cancelled meanwhile; closing twice is fine.

        `resumed`: a prompt to come may go on from its text; where a cache cannot keep all, others make way for it.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """A loaded model that holds many sequences at once."""

    @property
    def info(self) -> ModelInfo:
        """What the model is and can do."""
        ...

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        ...

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of a text; control tokens in it are plain text."""
        ...

    async def open(self, question: Question) -> Sequence:
        """A sequence that holds the prompt of `question`, through the model's chat template.

        Raises `ContextOverflow` when the prompt does not fit, `UsageError` when the template cannot take it.
        """
        ...

    async def aclose(self) -> None:
        """Frees the model; running calls end with `BackendClosed`."""
        ...
