"""Draft: the small model writes the chain's next step."""

from __future__ import annotations

from a1agent.backends.base import Generated
from a1agent.engine.chain import Call, Chain, step_of
from a1agent.events import StepDrafted

__all__ = ["draft"]


async def draft(call: Call, chain: Chain, turn: int, attempt: int, max_tokens: int) -> Generated:
    """Up to `max_tokens` tokens by the draft, in its sequence. Raises what the backend raises."""
    generated = await chain.draft.generate(max_tokens, call.sampling(chain.index, turn, "draft", attempt), call.stop())
    call.emit(
        StepDrafted(
            chain=chain.index,
            turn=turn,
            step=step_of(generated, "draft"),
            attempt=attempt,
            trimmed_tokens=generated.trimmed_tokens,
            work=generated.work,
        )
    )
    return generated
