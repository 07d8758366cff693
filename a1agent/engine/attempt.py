"""One attempt at a step: draft -> verify -> decide; and further ones, where a rejected step is drafted anew."""

from __future__ import annotations

from typing import NamedTuple

from a1agent.backends.base import Generated, TokenScores
from a1agent.conformal.scores import or_strangest
from a1agent.engine.chain import Call, Chain, Marks
from a1agent.engine.decide import decide
from a1agent.engine.draft import draft, look_ahead
from a1agent.engine.screen import passes_unread
from a1agent.engine.verify import verify
from a1agent.types import Step, Verdict

__all__ = ["Attempt", "attempt", "resample"]


class Attempt(NamedTuple):
    """What the draft wrote, which stands at the end of both sequences, and the verdict; None: accepted unread.

    `read`: how the target found each of its tokens.
    """

    drafted: Generated
    step: Step
    verdict: Verdict | None
    read: TokenScores | None = None

    @property
    def rejected(self) -> bool:
        """Whether the step may not stay."""
        return self.verdict is not None and self.verdict.rejected

    @property
    def score(self) -> float | None:
        """Nats per token under the target; None when it has not read the step."""
        return None if self.verdict is None else self.verdict.score


async def attempt(call: Call, chain: Chain, turn: int, number: int, max_tokens: int) -> Attempt:
    """The draft writes up to `max_tokens` tokens, the target scores them, the calibrator decides."""
    drafted, step = await draft(call, chain, turn, number, max_tokens)
    if not drafted.logprobs and drafted.stop_string is not None:  # there is nothing in it to be strange
        return Attempt(drafted, step, None)
    if number == 0 and await passes_unread(call, chain, turn, drafted):
        return Attempt(drafted, step, None)
    if number == 0:
        look_ahead(call, chain, turn, drafted)
    verified = await verify(call, chain, drafted)
    return Attempt(drafted, step, await decide(call, chain, turn, number, verified), verified.read)


async def resample(call: Call, chain: Chain, turn: int, first: Attempt, marks: Marks, max_tokens: int) -> Attempt:
    """Drafts a rejected step anew until one is accepted or the attempts are used up; then the best of them stands."""
    last = best = first
    for number in range(1, call.options.attempts):
        chain.rewind(marks)
        last = await attempt(call, chain, turn, number, max_tokens)
        if not last.rejected:
            return last
        best = min(best, last, key=lambda tried: or_strangest(tried.score))
    if best is not last:
        chain.rewind(marks)
        await chain.append(best.drafted.step)
    return best
