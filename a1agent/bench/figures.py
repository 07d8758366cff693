"""What the records of a run say: accuracy, speed, tokens and rates of each way, over questions that all answered."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from a1agent.bench.ledger import BareRates, Record
from a1agent.bench.statistics import Bootstrap, Estimate, Values, paired_p_value
from a1agent.bench.ways import RATED, Way
from a1agent.notices import together, written_share
from a1agent.stats import RejectionStats, TurnStats

__all__ = ["Account", "Compared", "Figures", "WayFigures", "ceiling", "compare", "figures"]


@dataclass(frozen=True, slots=True)
class Compared:
    """One way's accuracy less another's, and the p-value of the exact paired test."""

    difference: Estimate
    p_value: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens a question: written by the draft, read by the target to score, written by the target."""

    drafted: float
    scored: float
    target: float


@dataclass(frozen=True, slots=True)
class Account:
    """Where the seconds of a question go. `ideal`: what bare models would take for the same tokens."""

    wall: float
    ideal: float
    prompt: float
    draft: float
    score: float
    takeover: float

    @property
    def efficiency(self) -> float:
        """Ideal seconds as a share of the real ones."""
        return self.ideal / self.wall

    @property
    def rest(self) -> float:
        """Seconds in which no model ran: the engine, tokenizing, voting, and waiting for them.

        At least so many: those in which both ran at once were taken off twice.
        """
        return max(0.0, self.wall - self.prompt - self.draft - self.score - self.takeover)


@dataclass(frozen=True, slots=True, kw_only=True)
class WayFigures:
    """The figures of one way. `records`: one a question, in the questions' order.

    `timed`: those of questions that every way answered, which seconds, tokens and energy are of: one that fails at once
    takes no time. `seconds` is None where there are none.
    """

    way: Way
    records: list[Record]
    timed: list[Record]
    majority: Estimate
    vote: Estimate
    any_right: float
    chains_right: float
    seconds: Estimate | None
    speedup: Estimate | None
    ceiling: float | None
    tokens: Tokens
    by_turn: list[TurnStats]
    observed_rate: float | None
    selectivity: float | None
    intensity: float | None
    waiting_s: float
    energy_j: float | None
    account: Account | None

    def column(self, name: str) -> Values:
        """A number of each record."""
        return np.array([getattr(record, name) for record in self.records], np.float64)

    @property
    def walls(self) -> Values:
        """Seconds of each question that every way answered."""
        return _seconds(self.timed)

    @property
    def errors(self) -> list[str]:
        """Why questions were not answered."""
        return [record.error for record in self.records if record.error is not None]

    @property
    def right(self) -> dict[str, np.ndarray]:
        """Whether each question was right, by each vote."""
        return {
            "majority": np.array([record.majority_right for record in self.records]),
            "vote": np.array([record.right for record in self.records]),
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """All ways, by name, over the same `questions`, so many of them `timed`: every way answered them.

    `shared`: the models took turns on one device. `resamples`: rejected steps were drafted anew, and nobody took over.
    """

    questions: int
    timed: int
    ways: dict[str, WayFigures]
    bootstrap: Bootstrap
    bare: BareRates | None
    shared: bool
    resamples: bool

    def alone(self, way: Way) -> WayFigures | None:
        """The target alone with as many chains."""
        return next((f for f in self.ways.values() if f.way.mode == "target" and f.way.chains == way.chains), None)

    def of(self, mode: str, also: str | None = None) -> list[WayFigures]:
        """The ways of a mode by rate; with `also`, those that differ in that, and the compared one at their rate."""
        ways = [f for f in self.ways.values() if f.way.mode == mode]
        rates = {f.way.rate for f in ways if f.way.also == also}
        found = [f for f in ways if f.way.also in (None, also) and f.way.rate in rates]
        return sorted(found, key=lambda f: (f.way.rate, f.way.chains, f.way.verify))


@dataclass(frozen=True, slots=True)
class _Common:
    """What the figures of all ways go by. `clock`: resamples of the questions that are timed, None without any."""

    bootstrap: Bootstrap
    clock: Bootstrap | None
    bare: BareRates | None
    shared: bool
    resamples: bool


def figures(
    records: Sequence[Record],
    rates: Sequence[BareRates],
    ways: Sequence[Way],
    *,
    shared: bool,
    resamples: bool = False,
) -> Figures:
    """The figures of a run. `shared`: both models on one device, in turn; `resamples`: rejected steps are drafted anew.

    Raises `ValueError` when no question was answered by every way.
    """
    found = {(record.problem, record.way): record for record in records}
    problems = sorted({r.problem for r in records if all((r.problem, way.name) in found for way in ways)})
    if not problems:
        raise ValueError("no question was answered in every way yet")
    timed = [problem for problem in problems if all(found[problem, way.name].error is None for way in ways)]
    clock = Bootstrap(len(timed)) if timed else None
    common = _Common(Bootstrap(len(problems)), clock, _median(rates), shared, resamples)
    rows = {way.name: [found[problem, way.name] for problem in problems] for way in ways}
    answered = {way.name: [found[problem, way.name] for problem in timed] for way in ways}
    alone = {way.chains: _seconds(answered[way.name]) for way in ways if way.mode == "target"}
    made = {
        way.name: _figures_of(way, rows[way.name], answered[way.name], alone.get(way.chains), common) for way in ways
    }
    return Figures(len(problems), len(timed), made, common.bootstrap, common.bare, shared, resamples)


def compare(one: WayFigures, other: WayFigures, vote: str, bootstrap: Bootstrap) -> Compared:
    """How much more often `one` is right than `other`, by a vote."""
    right, against = one.right[vote], other.right[vote]
    difference = bootstrap.bounded(right.astype(np.float64) - against.astype(np.float64), -1, 1)
    return Compared(difference, paired_p_value(right, against))


def ceiling(
    bare: BareRates, scored: float, rejected: float, *, standing: float = 1.0, shared: bool = True
) -> float | None:
    """The speed-up over the target alone that the bare rates allow, at equal lengths (design: what it costs).

    standing (1/R_t) / (1/R_d + scored/S_t + rejected/R_t), where `standing` is the share of drafted tokens that stand
    or that the target replaced, `scored` and `rejected` are shares of all steps (of those that
    were rolled back only what the target wrote), and the first R_t is at the batch of the target alone, the second at
    that of takeovers. Models that do not share a device may run at once: then the larger of the draft's part and the
    target's counts. None where a rate was not measured.
    """
    if bare.alone is None or (rejected > 0 and bare.takeover is None):
        return None
    writing = rejected / bare.takeover if bare.takeover else 0.0
    return standing / bare.alone / together(1 / bare.draft, scored / bare.score + writing, in_turn=shared)


def _figures_of(way: Way, rows: list[Record], timed: list[Record], alone: Values | None, common: _Common) -> WayFigures:
    bootstrap, clock, bare, shared = common.bootstrap, common.clock, common.bare, common.shared
    stats, spent = _stats(rows), _stats(timed)
    seconds, by_turn = _seconds(timed), _by_turn(stats)
    verified, rejected = sum(t.verifications for t in by_turn), sum(t.rejections for t in by_turn)
    rated = way.mode in RATED and verified > 0
    observed, steps = rejected / verified if rated else None, verified + _total(stats, "unverified")
    waiting, compute = _total(spent, "waiting_s"), sum(_total(spent, f"{p}_s") for p in ("draft", "verify", "takeover"))
    written = 0.0 if common.resamples else rejected * written_share(stats)
    drafted, kept = _total(stats, "drafted_tokens"), _total(stats, "kept_tokens")
    standing = kept / drafted if common.resamples and drafted else 1.0
    read = verified if _total(stats, "scored_tokens") else 0  # a model that judges itself reads nothing
    fits = bare is not None and way.mode == "a1" and way.also != "chains"
    return WayFigures(
        way=way,
        records=rows,
        timed=timed,
        majority=bootstrap.bounded(_column(rows, lambda row: row.majority_right), 0, 1),
        vote=bootstrap.bounded(_column(rows, lambda row: row.right), 0, 1),
        any_right=statistics.fmean(row.any_right for row in rows),
        chains_right=statistics.fmean(row.chains_right for row in rows),
        seconds=None if clock is None else clock.mean(seconds),
        speedup=None if clock is None or alone is None else clock.ratio(alone, seconds),
        ceiling=ceiling(bare, read / steps, written / steps, standing=standing, shared=shared)
        if fits and bare and steps
        else None,
        tokens=_tokens(way, spent, max(1, len(timed))),
        by_turn=by_turn,
        observed_rate=observed,
        selectivity=_mean([s.selectivity for s in stats]) if rated else None,
        intensity=compute / waiting if waiting > 0 else None,
        waiting_s=waiting / max(1, len(timed)),
        energy_j=_mean([row.energy_j for row in timed]),
        account=_account(timed, spent, bare, shared) if timed and fits and bare else None,
    )


def _stats(rows: Sequence[Record]) -> list[RejectionStats]:
    return [row.stats for row in rows if row.stats is not None]


def _account(rows: list[Record], stats: list[RejectionStats], bare: BareRates, shared: bool) -> Account:
    count = len(rows)
    drafting = _total(stats, "drafted_tokens") / bare.draft
    targeting = _total(stats, "scored_tokens") / bare.score
    targeting += sum(_written_in_takeovers(one) for one in stats) / bare.takeover if bare.takeover else 0.0
    return Account(
        wall=sum(row.wall_s for row in rows) / count,
        ideal=together(drafting, targeting, in_turn=shared) / count,
        prompt=sum(row.prompt_s for row in rows) / count,
        draft=_total(stats, "draft_s") / count,
        score=_total(stats, "verify_s") / count,
        takeover=_total(stats, "takeover_s") / count,
    )


def _written_in_takeovers(stats: RejectionStats) -> float:
    """Tokens that the target sampled, those included that were cut off again at a word's border."""
    return (stats.target_tokens_per_s or 0.0) * stats.takeover_s


def _tokens(way: Way, stats: list[RejectionStats], count: int) -> Tokens:
    drafted, scored, target = (
        _total(stats, name) / count for name in ("drafted_tokens", "scored_tokens", "target_tokens")
    )
    return Tokens(0.0, scored, drafted) if way.mode == "target" else Tokens(drafted, scored, target)


def _by_turn(stats: list[RejectionStats]) -> list[TurnStats]:
    turns: list[list[int]] = []
    for one in stats:
        for index, turn in enumerate(one.by_turn):
            if index == len(turns):
                turns.append([0, 0])
            turns[index][0] += turn.verifications
            turns[index][1] += turn.rejections
    return [TurnStats(verifications=v, rejections=r) for v, r in turns]


def _median(rates: Sequence[BareRates]) -> BareRates | None:
    """The rates of a run: those of its middle measurement, each by itself."""
    if not rates:
        return None

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    last = rates[-1]
    return last.model_copy(
        update={name: middle([getattr(one, name) for one in rates]) for name in ("draft", "score", "takeover", "alone")}
    )


def _seconds(rows: Sequence[Record]) -> Values:
    return _column(rows, lambda row: row.wall_s)


def _column(rows: Sequence[Record], value: Callable[[Record], float]) -> Values:
    return np.array([value(row) for row in rows], np.float64)


def _total(stats: Sequence[RejectionStats], name: str) -> float:
    return float(sum(getattr(one, name) for one in stats))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
