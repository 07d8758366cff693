"""Draft: the small model writes the chain's next step, or has written it ahead."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from a1agent.backends.base import Generated
from a1agent.engine.ahead import Ahead
from a1agent.engine.chain import Call, Chain, step_of
from a1agent.events import StepDrafted, StepDropped
from a1agent.types import Step

__all__ = ["draft", "drop_ahead", "look_ahead"]


async def draft(call: Call, chain: Chain, turn: int, attempt: int, max_tokens: int) -> tuple[Generated, Step]:
    """Up to `max_tokens` tokens by the draft, in its sequence, and as a step. Raises what the backend raises."""
    ahead = chain.ahead
    if ahead is not None and (ahead.turn, ahead.limit) == (turn, max_tokens):
        mark, generated = ahead.mark, await ahead.step()
        chain.ahead = None
    else:
        await drop_ahead(call, chain)
        mark = chain.draft.mark()
        generated = await _write(call, chain, turn, attempt, max_tokens, chain.text)
    generated, stands = call.stopped(chain.text, generated)
    chain.cut(stands)
    if call.can_rewind and not generated.logprobs:
        chain.draft.rewind(mark)
    step = step_of(generated, "draft")
    call.emit(
        StepDrafted(
            chain=chain.index,
            turn=turn,
            step=step,
            lead=chain.lead,
            attempt=attempt,
            trimmed_tokens=generated.trimmed_tokens,
            work=generated.work,
        )
    )
    return generated, step


def look_ahead(call: Call, chain: Chain, turn: int, drafted: Generated) -> None:
    """Starts the step after `drafted` where it is certain that there will be one if that stays.

    It is the very step that would be drafted later: neither its seed nor its limit depends on when that is.
    """
    if not call.looks_ahead or call.stating or turn + 1 >= call.options.turns:
        return
    tokens = len(drafted.logprobs)
    limit = min(call.options.step_tokens, chain.room(call, drafted=tokens, unread=tokens))
    if limit >= 1 and not chain.would_end(call, drafted):
        text = chain.text + drafted.step.text
        chain.ahead = Ahead(turn + 1, limit, chain.draft, _write(call, chain, turn + 1, 0, limit, text))


async def drop_ahead(call: Call, chain: Chain) -> None:
    """Takes back what was written ahead. Cancelled meanwhile, it is still there to be taken back."""
    ahead = chain.ahead
    if ahead is None:
        return
    dropped = await ahead.drop()
    chain.ahead = None
    if dropped is not None:
        tokens = len(dropped.logprobs) + dropped.trimmed_tokens
        call.emit(StepDropped(chain=chain.index, turn=ahead.turn, tokens=tokens, work=dropped.work))


def _write(call: Call, chain: Chain, turn: int, attempt: int, limit: int, text: str) -> Coroutine[Any, Any, Generated]:
    return chain.draft.generate(limit, call.sampling(chain.index, turn, "draft", attempt), call.stop(text))
