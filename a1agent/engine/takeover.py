"""Take over: the target writes a step, instead of the rejected one (`rewrite`) or after it (`continue`)."""

from __future__ import annotations

from dataclasses import dataclass

from a1agent.backends.base import Generated, Mark
from a1agent.engine.chain import Call, Chain
from a1agent.events import StepTakenOver
from a1agent.types import Step

__all__ = ["Marks", "take_over"]


@dataclass(frozen=True, slots=True)
class Marks:
    """Where both sequences stood before the drafted step."""

    draft: Mark
    target: Mark


async def take_over(
    call: Call, chain: Chain, turn: int, drafted: Generated, score: float, marks: Marks, max_tokens: int
) -> Step:
    """The target's step, appended to the chain and to the draft's sequence. Raises what the backend raises.

    `score`: of the rejected step, which counts only where it stays.
    """
    if call.options.takeover == "rewrite":
        chain.draft.rewind(marks.draft)
        chain.target.rewind(marks.target)
    else:
        chain.grow(drafted, "draft", score)
    generated = await chain.target.generate(max_tokens, call.sampling(chain.index, turn, "target"), call.stop())
    await chain.draft.append(generated.step)
    step = chain.grow(generated, "target", call.score(generated.logprobs))
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
