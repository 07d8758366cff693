"""Take over: the target writes a step: instead of the rejected one, after it, or after what it would keep of it."""

from __future__ import annotations

from a1agent.backends.base import Mark, StepText
from a1agent.config import TakeoverMode
from a1agent.engine.attempt import Attempt
from a1agent.engine.chain import Call, Chain, Marks, step_of
from a1agent.engine.draft import drop_ahead
from a1agent.engine.rollback import NOTHING, Kept, kept_of
from a1agent.events import StepTakenOver

__all__ = ["take_over"]


async def take_over(call: Call, chain: Chain, turn: int, rejected: Attempt, marks: Marks, room: int) -> StepTakenOver:
    """The target's step of at most `room` tokens, with what it keeps, appended to the chain and the draft's sequence.

    A statement is rewritten in any case, as it is one step, and so is a step that leaves no room after it; not so where
    a model cannot take back what it holds. The target does not wait for the draft to drop what it wrote ahead. Raises
    what the backend raises.
    """
    if chain.ahead is not None:
        chain.ahead.stop()
    left = chain.room(call, drafted=rejected.step.tokens)
    how = _how(call, left)
    kept = _kept(call, chain, rejected, room) if how == "rollback" else NOTHING
    most = max(1, _most(call, rejected, kept, left if how == "continue" else room))
    text = rejected.step.text if how == "continue" else kept.text
    if how != "continue":
        chain.target.rewind(Mark(marks.target.length + len(kept.ids)))
    stop, begun = call.stop(chain.text + text, len(kept.ids)), chain.target.mark()
    generated = await chain.target.generate(most, call.sampling(chain.index, turn, "target"), stop)
    generated, stands = call.stopped(chain.text + text, generated)
    if call.can_rewind and not generated.logprobs:
        chain.target.rewind(begun)
    await drop_ahead(call, chain)
    tokens = rejected.step.tokens if how == "continue" else await _take_back(call, chain, kept, marks)
    if not chain.own_target:
        await chain.draft.append(generated.step)
    chain.keep(text, tokens, rejected.score if how == "continue" else None)
    chain.cut(stands)
    step = step_of(generated, "target")
    chain.grow(generated, step, call.score((*kept.logprobs, *generated.logprobs)))
    taken = StepTakenOver(
        chain=chain.index,
        turn=turn,
        step=step,
        takeover=how,
        kept=text,
        kept_tokens=tokens,
        trimmed_tokens=generated.trimmed_tokens,
        work=generated.work,
    )
    call.emit(taken)
    return taken


def _how(call: Call, left: int) -> TakeoverMode:
    """How the step is taken over, with so many tokens `left` after it."""
    if call.can_rewind and (call.stating or (left < 1 and call.options.takeover == "continue")):
        return "rewrite"
    return call.options.takeover


def _most(call: Call, rejected: Attempt, kept: Kept, room: int) -> int:
    """Tokens that the target may write, where there is `room` for so many with what is kept."""
    held = len(kept.ids)
    if held and not call.one_tokenizer:  # the draft may cut it finer, but not finer than the whole step
        held = max(held, rejected.step.tokens)
    most = call.statement.tokens if call.stating else call.options.takeover_tokens
    return min(most or call.options.step_tokens - len(kept.ids), room - held)


def _kept(call: Call, chain: Chain, rejected: Attempt, room: int) -> Kept:
    """What stays of the rejected step, if the target may add to it."""
    if rejected.read is None:
        return NOTHING
    kept = kept_of(rejected.step.text, rejected.read, chain.target, call.options.stop)
    return kept if _most(call, rejected, kept, room) > 0 else NOTHING


async def _take_back(call: Call, chain: Chain, kept: Kept, marks: Marks) -> int:
    """Leaves in the draft's sequence only what is `kept` of the rejected step; how many of its tokens that are."""
    start = marks.draft.length
    if chain.own_target:
        return len(kept.ids)
    if call.one_tokenizer:
        chain.draft.rewind(Mark(start + len(kept.ids)))
        return len(kept.ids)
    drafted = chain.draft.length - start
    chain.draft.rewind(marks.draft)
    if kept.text:
        await chain.draft.append(StepText(text=kept.text))
    return min(drafted, chain.draft.length - start)
