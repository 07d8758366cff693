"""Take over: the target writes a step, instead of the rejected one (`rewrite`) or after it (`continue`)."""

from __future__ import annotations

from a1agent.backends.base import Generated
from a1agent.engine.attempt import Attempt
from a1agent.engine.chain import Call, Chain, Marks, step_of
from a1agent.engine.draft import drop_ahead
from a1agent.events import StepTakenOver
from a1agent.types import Step

__all__ = ["take_over"]


async def take_over(call: Call, chain: Chain, turn: int, rejected: Attempt, marks: Marks, max_tokens: int) -> Step:
    """The target's step, appended to the chain and to the draft's sequence. Raises what the backend raises.

    The target does not wait for the draft to drop what it wrote ahead.
    """
    if chain.ahead is not None:
        chain.ahead.stop()
    if call.options.takeover == "rewrite":
        chain.target.rewind(marks.target)
    else:
        chain.grow(rejected.drafted, rejected.step, rejected.score)
    generated = await chain.target.generate(max_tokens, call.sampling(chain.index, turn, "target"), call.stop())
    if not chain.own_target:
        await _follow(call, chain, marks, generated)
    step = step_of(generated, "target")
    chain.grow(generated, step, call.score(generated.logprobs))
    call.emit(
        StepTakenOver(
            chain=chain.index,
            turn=turn,
            step=step,
            takeover=call.options.takeover,
            trimmed_tokens=generated.trimmed_tokens,
            work=generated.work,
        )
    )
    return step


async def _follow(call: Call, chain: Chain, marks: Marks, generated: Generated) -> None:
    """Brings the draft's sequence to where the target's stands."""
    await drop_ahead(call, chain)
    if call.options.takeover == "rewrite":
        chain.draft.rewind(marks.draft)
    await chain.draft.append(generated.step)
