"""Take over: the target writes a step, instead of the rejected one (`rewrite`) or after it (`continue`)."""

from __future__ import annotations

from a1agent.backends.base import Generated
from a1agent.engine.attempt import Attempt
from a1agent.engine.chain import Call, Chain, Marks, step_of
from a1agent.engine.draft import drop_ahead
from a1agent.events import StepTakenOver
from a1agent.types import Step

__all__ = ["take_over"]


async def take_over(call: Call, chain: Chain, turn: int, rejected: Attempt, marks: Marks, room: int) -> Step:
    """The target's step of at most `room` tokens, appended to the chain and to the draft's sequence.

    A statement is rewritten in any case, as it is one step, and so is a step that leaves no room after it; not so where
    a model cannot take back what it holds. The target does not wait for the draft to drop what it wrote ahead. Raises
    what the backend raises.
    """
    if chain.ahead is not None:
        chain.ahead.stop()
    left = chain.room(call, drafted=rejected.step.tokens)
    needs_rewriting = call.can_rewind and (call.stating or left < 1)
    continues = call.options.takeover == "continue" and not needs_rewriting
    if not continues:
        chain.target.rewind(marks.target)
    stop = call.stop(chain.text + rejected.step.text if continues else chain.text)
    most = max(1, min(_most(call), left if continues else room))
    generated = await chain.target.generate(most, call.sampling(chain.index, turn, "target"), stop)
    if not chain.own_target:
        await _follow(call, chain, generated, None if continues else marks)
    if continues:
        chain.grow(rejected.drafted, rejected.step, rejected.score)
    step = step_of(generated, "target")
    chain.grow(generated, step, call.score(generated.logprobs))
    call.emit(
        StepTakenOver(
            chain=chain.index,
            turn=turn,
            step=step,
            takeover="continue" if continues else "rewrite",
            trimmed_tokens=generated.trimmed_tokens,
            work=generated.work,
        )
    )
    return step


def _most(call: Call) -> int:
    """Tokens of a step by the target."""
    return call.statement.tokens if call.stating else call.options.takeover_tokens or call.options.step_tokens


async def _follow(call: Call, chain: Chain, generated: Generated, marks: Marks | None) -> None:
    """Brings the draft's sequence to where the target's stands, from the `marks` where the rejected step is gone."""
    await drop_ahead(call, chain)
    if marks is not None:
        chain.draft.rewind(marks.draft)
    await chain.draft.append(generated.step)
