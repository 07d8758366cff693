"""The statistics of a call, as every interface reports them; `fold.py` makes them from its events."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["RejectionStats", "TurnStats"]


class TurnStats(BaseModel):
    """Verified and rejected steps of one turn, over the chains."""

    model_config = ConfigDict(frozen=True)

    verifications: int
    rejections: int


class RejectionStats(BaseModel):
    """What a call did. Tokens are counted in those of the model that processed them; `*_s` are seconds.

    `draft_s`, `verify_s` and `takeover_s` are shares of the forwards each call rode in, so that they add up over
    chains that were batched together; `waiting_s` is what chains spent in no forward, `queued_s` what the
    question waited in line before. `drafted_tokens` = `kept_tokens` + `discarded_tokens`. `selectivity` is null while
    steps were all accepted or all rejected. `unverified`: steps accepted without being scored (`verify_rate`).
    `reused_tokens`: those of chains that both models found in their caches, whenever one was to go on or to score;
    `reread_tokens`: those they had read before and read again, for want of a cache. Of servers that do not tell, both
    are 0. `spared_tokens`: those of `kept_tokens` that begin steps which the target wrote on (`takeover="rollback"`).
    `cached_tokens` is of prompts only: `prompt_tokens` that were in a cache before. `in_turn`: the models ran one at a
    time, on one device; otherwise they may have run at once.
    """

    model_config = ConfigDict(frozen=True)

    asked_rate: float
    observed_rate: float | None
    verifications: int
    unverified: int
    rejections: int
    by_turn: list[TurnStats]
    p_value_histogram: list[int]
    selectivity: float | None
    non_finite_scores: int
    calibration_size: int
    calibrator: str
    coverage: str
    chains_started: int
    chains_finished: int
    chains_cancelled: int
    chains_failed: int
    drafted_tokens: int
    kept_tokens: int
    discarded_tokens: int
    scored_tokens: int
    reused_tokens: int
    reread_tokens: int
    target_tokens: int
    spared_tokens: int = 0
    prompt_tokens: int
    cached_tokens: int
    draft_s: float
    verify_s: float
    takeover_s: float
    waiting_s: float
    queued_s: float
    in_turn: bool = True
    wall_s: float
    draft_tokens_per_s: float | None
    target_tokens_per_s: float | None
    asynchronous_intensity: float | None
