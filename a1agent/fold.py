"""Folds the events of a call, or of several, into their statistics and usage; nothing else feeds them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from a1agent import events
from a1agent.backends.base import Work
from a1agent.config import Options
from a1agent.conformal.selectivity import selectivity
from a1agent.stats import RejectionStats, TurnStats
from a1agent.types import ModelUsage, Usage

__all__ = ["StatsFold"]

_BINS = 10


@dataclass(slots=True)
class StatsFold:
    """Accumulates events into `RejectionStats` and `Usage`. Chains of several calls need numbers of their own.

    `pending`: drafted tokens of each chain that nobody has decided on yet.
    """

    options: Options
    by_turn: list[list[int]] = field(default_factory=list[list[int]])
    histogram: list[int] = field(default_factory=lambda: [0] * _BINS)
    verdicts: list[tuple[str, float, bool]] = field(default_factory=list[tuple[str, float, bool]])
    pending: Counter[int] = field(default_factory=Counter[int])
    calibration_size: int = 0
    non_finite: int = 0
    unverified: int = 0
    started: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    kept_tokens: int = 0
    discarded_tokens: int = 0
    scored_tokens: int = 0
    reused_tokens: int = 0
    reread_tokens: int = 0
    target_tokens: int = 0
    spared_tokens: int = 0
    target_output_tokens: int = 0
    draft_prompt: tuple[int, int] = (0, 0)
    target_prompt: tuple[int, int] = (0, 0)
    draft_s: float = 0.0
    verify_s: float = 0.0
    takeover_s: float = 0.0
    waiting_s: float = 0.0
    queued_s: float = 0.0
    in_turn: bool = True

    def add(self, event: events.Event) -> None:
        """Takes one event in."""
        match event:
            case events.QuestionOpened():
                self._opened(event)
            case events.ChainStarted():
                self.started += 1
            case events.StepDrafted():
                self._drafted(event)
            case events.StepDropped():
                self.discarded_tokens += event.tokens
                self.draft_s += self._seconds(event.work)
            case events.StepVerified():
                self._verified(event)
            case events.StepAccepted():
                self.unverified += not event.verified
                self._settle(event.chain, event.step.tokens)
            case events.StepTakenOver():
                self._taken_over(event)
            case events.ChainFinished():
                self._finished(event)
            case events.VoteClosed():
                pass

    def _opened(self, event: events.QuestionOpened) -> None:
        self.draft_prompt = _plus(self.draft_prompt, event.draft_prompt_tokens, event.draft_work.cached_tokens)
        self.target_prompt = _plus(self.target_prompt, event.target_prompt_tokens, event.target_work.cached_tokens)
        self.queued_s += event.queued_s
        self.in_turn = event.in_turn
        for work in (event.draft_work, event.target_work):
            self.waiting_s += work.waiting_s

    def _drafted(self, event: events.StepDrafted) -> None:
        self.pending[event.chain] += event.step.tokens
        self.discarded_tokens += event.trimmed_tokens
        self.draft_s += self._seconds(event.work)

    def _verified(self, event: events.StepVerified) -> None:
        verdict = event.verdict
        while len(self.by_turn) <= event.turn:
            self.by_turn.append([0, 0])
        self.by_turn[event.turn][0] += 1
        self.by_turn[event.turn][1] += verdict.rejected
        self.scored_tokens += event.scored_tokens
        self.calibration_size = max(self.calibration_size, verdict.calibration_size)
        self.verify_s += self._seconds(event.work)
        if not math.isfinite(verdict.score):
            self.non_finite += 1
            return
        self.histogram[min(_BINS - 1, int(verdict.p_value * _BINS))] += 1
        self.verdicts.append(("", verdict.score, verdict.rejected))

    def _taken_over(self, event: events.StepTakenOver) -> None:
        self._settle(event.chain, event.kept_tokens)
        self.spared_tokens += event.kept_tokens if event.takeover == "rollback" else 0
        self.target_tokens += event.step.tokens
        self.target_output_tokens += event.step.tokens + event.trimmed_tokens
        self.takeover_s += self._seconds(event.work)

    def _finished(self, event: events.ChainFinished) -> None:
        # What a cancelled or failed chain had drafted and nobody decided on is lost, and counted as such.
        self._settle(event.chain, 0)
        if event.result.end == "cancelled":
            self.cancelled += 1
        elif event.result.end == "failed":
            self.failed += 1
        else:
            self.finished += 1

    def _settle(self, chain: int, kept: int) -> None:
        """Decides on what a chain drafted since the last time: `kept` tokens stay, those of other attempts do not."""
        self.kept_tokens += kept
        self.discarded_tokens += self.pending.pop(chain, 0) - kept

    def _seconds(self, work: Work) -> float:
        """Those a call on a chain took; its waiting and what it found in the cache are noted."""
        self.waiting_s += work.waiting_s
        self.reused_tokens += work.cached_tokens
        self.reread_tokens += work.reread_tokens
        return work.compute_s

    @property
    def drafted_tokens(self) -> int:
        """Tokens the draft sampled, decided on or not."""
        return self.kept_tokens + self.discarded_tokens + self.pending.total()

    def usage(self) -> Usage:
        """What each model processed so far."""
        return Usage(
            draft=ModelUsage(
                prompt_tokens=self.draft_prompt[0],
                cached_tokens=self.draft_prompt[1],
                output_tokens=self.drafted_tokens,
            ),
            target=ModelUsage(
                prompt_tokens=self.target_prompt[0],
                cached_tokens=self.target_prompt[1],
                scored_tokens=self.scored_tokens,
                output_tokens=self.target_output_tokens,
            ),
        )

    def stats(self, wall_s: float) -> RejectionStats:
        """The statistics so far; `wall_s` seconds since the call began."""
        verifications = sum(turn[0] for turn in self.by_turn)
        rejections = sum(turn[1] for turn in self.by_turn)
        compute_s = self.draft_s + self.verify_s + self.takeover_s
        return RejectionStats(
            asked_rate=self.options.rejection_rate,
            observed_rate=rejections / verifications if verifications else None,
            verifications=verifications,
            unverified=self.unverified,
            rejections=rejections,
            by_turn=[TurnStats(verifications=v, rejections=r) for v, r in self.by_turn],
            p_value_histogram=list(self.histogram),
            selectivity=selectivity(self.verdicts),
            non_finite_scores=self.non_finite,
            calibration_size=self.calibration_size,
            calibrator=self.options.calibrator,
            coverage=self.options.coverage,
            chains_started=self.started,
            chains_finished=self.finished,
            chains_cancelled=self.cancelled,
            chains_failed=self.failed,
            drafted_tokens=self.drafted_tokens,
            kept_tokens=self.kept_tokens,
            discarded_tokens=self.discarded_tokens,
            scored_tokens=self.scored_tokens,
            reused_tokens=self.reused_tokens,
            reread_tokens=self.reread_tokens,
            target_tokens=self.target_tokens,
            spared_tokens=self.spared_tokens,
            prompt_tokens=self.draft_prompt[0] + self.target_prompt[0],
            cached_tokens=self.draft_prompt[1] + self.target_prompt[1],
            draft_s=self.draft_s,
            verify_s=self.verify_s,
            takeover_s=self.takeover_s,
            waiting_s=self.waiting_s,
            queued_s=self.queued_s,
            in_turn=self.in_turn,
            wall_s=wall_s,
            draft_tokens_per_s=_rate(self.drafted_tokens, self.draft_s),
            target_tokens_per_s=_rate(self.target_output_tokens, self.takeover_s),
            asynchronous_intensity=compute_s / self.waiting_s if self.waiting_s > 0 else None,
        )


def _plus(pair: tuple[int, int], first: int, second: int) -> tuple[int, int]:
    return pair[0] + first, pair[1] + second


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds > 0 else None
