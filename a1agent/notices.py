"""What a person should know about an answer: a question unlike the training data, chains that failed, a rate that was
not kept, a target that is faster alone."""

from __future__ import annotations

from collections.abc import Sequence

from a1agent.backends.base import ModelInfo
from a1agent.conformal.feedback import RATE_MARGIN, RATE_STEPS
from a1agent.models import Loaded
from a1agent.stats import RejectionStats
from a1agent.types import ChainResult, Question

__all__ = ["UNLIKE_LEVEL", "Once", "ceiling", "failures", "off_rate", "together", "written_share"]

UNLIKE_LEVEL = 0.01
"""A question is called unlike the training data when fewer than this share of training prompts are as strange."""

_ROUNDING = 1e-9  # of a rate that is just within the margin


def ceiling(stats: RejectionStats) -> float | None:
    """The speed-up over the target alone that the measured rates allow (1/R_t) / (1/R_d + v/S_t + rate/R_t).

    R_d, S_t, R_t are tokens per second of drafting, scoring and the target's writing, v and rate the shares of all
    steps that were scored and taken over (times the share of such steps that the target wrote, where they were rolled
    back); None when one was not measured. Of models that may run at once the larger of the draft's part and the
    target's counts instead of both.
    """
    if not (stats.draft_tokens_per_s and stats.target_tokens_per_s and stats.verify_s > 0 and stats.scored_tokens):
        return None
    target_alone = 1 / stats.target_tokens_per_s
    steps = stats.verifications + stats.unverified
    scoring = stats.verify_s / stats.scored_tokens * stats.verifications / steps
    targeting = scoring + stats.rejections / steps * written_share([stats]) * target_alone
    return target_alone / together(1 / stats.draft_tokens_per_s, targeting, in_turn=stats.in_turn)


def written_share(calls: Sequence[RejectionStats]) -> float:
    """Share of the steps it took over that the target wrote itself: below 1 only where they were rolled back."""
    written, spared = sum(s.target_tokens for s in calls), sum(s.spared_tokens for s in calls)
    return written / (written + spared) if spared else 1.0


def together(drafting: float, targeting: float, *, in_turn: bool) -> float:
    """Seconds that both models' parts take at least: one after the other, or at once."""
    return drafting + targeting if in_turn else max(drafting, targeting)


def off_rate(stats: RejectionStats) -> list[str]:
    """A notice where conditional coverage was asked for and the rate of this call is further off than its margin."""
    rate, steps = stats.observed_rate, stats.verifications
    if stats.coverage != "conditional" or rate is None or abs(rate - stats.asked_rate) <= RATE_MARGIN + _ROUNDING:
        return []
    found = f"this question's rejection rate is {rate:.2f}, asked for {stats.asked_rate:.2f}"
    if steps < RATE_STEPS:
        return [
            f"{found}: conditional coverage keeps it within {RATE_MARGIN} from {RATE_STEPS} verified steps on, "
            f"and there {'was' if steps == 1 else 'were'} {steps}; more chains verify more"
        ]
    return [
        f"{found}: more than the {RATE_MARGIN} of conditional coverage, because the bound on the overall rate or "
        "scores that are not finite went before it"
    ]


def failures(chains: Sequence[ChainResult]) -> list[str]:
    """A notice where chains failed and others answered."""
    errors = [chain.error for chain in chains if chain.end == "failed"]
    return [f"{len(errors)} of {len(chains)} chains failed and did not vote: {errors[0]}"] if errors else []


class Once:
    """Makes the notices of an agent's calls; what holds for the agent and not for the question is said once."""

    def __init__(self) -> None:
        self._said_slow = False
        self._said_reread = False

    async def of_call(self, pair: Loaded, embedded: bool, question: Question, stats: RejectionStats) -> list[str]:
        """The notices of one call, most important first."""
        remarks: list[str] = []
        if embedded:
            from a1agent.embedded.unlike import prompt_p_value

            if question.tools or question.response_format:
                remarks.append(
                    "the embedded models know neither tools nor formats, and a request for them leads them astray: do "
                    "not trust the answer; give real models with --draft and --target (draft= and target= in Python)"
                )
            p_value = await prompt_p_value(pair.target, question.text)
            if p_value <= UNLIKE_LEVEL:
                remarks.append(
                    f"this question is unlike anything the embedded models were trained on (p = {p_value:.3f}): do not "
                    "trust the answer; give real models with --draft and --target (draft= and target= in Python)"
                )
        return remarks + off_rate(stats) + self._reread(pair.target.info, stats) + self._slow(stats)

    def _reread(self, target: ModelInfo, stats: RejectionStats) -> list[str]:
        if self._said_reread or target.reuses_prefix or stats.reread_tokens <= stats.scored_tokens:
            return []
        self._said_reread = True
        return [
            f"{target.name} reads the whole chain again for each score: {stats.reread_tokens} tokens in this call, to "
            f"score {stats.scored_tokens}; vLLM from 0.31 on reads the step only, started with --enable-scale-out and "
            "VLLM_USE_V2_MODEL_RUNNER=1 in its environment; so does SGLang"
        ]

    def _slow(self, stats: RejectionStats) -> list[str]:
        speedup = ceiling(stats)
        if self._said_slow or speedup is None or speedup >= 1:
            return []
        self._said_slow = True
        return [
            f"at the rates measured in this call the target alone would be faster (speed-up ceiling {speedup:.2f}): "
            "here A1 buys its rate control and its votes, not speed"
        ]
