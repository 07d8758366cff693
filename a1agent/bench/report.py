"""The report of a run, for a reader: what to conclude, then the tables it follows from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from a1agent.bench.figures import Compared, Figures, WayFigures, compare
from a1agent.bench.statistics import Estimate
from a1agent.bench.verdict import verdicts
from a1agent.bench.ways import RATED
from a1agent.config import Options
from a1agent.conformal.feedback import RATE_MARGIN, RATE_STEPS

__all__ = ["Context", "report"]

_IMPOSSIBLE = 1.05
_VOTES = {"majority": "majority", "vote": "the vote"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a report says about how it came to be. `peak_memory` in bytes."""

    draft: str
    target: str
    data: str
    asked: int
    options: Options
    command: str
    machine: Mapping[str, str]
    date: datetime
    peak_memory: int | None = None
    plots: Mapping[str, str] = field(default_factory=dict[str, str])


def report(found: Figures, context: Context) -> str:
    """Markdown. `context.plots` maps file names to captions."""
    parts = [
        f"# {context.draft} and {context.target} on {context.data}",
        _bullets(verdicts(found)),
        _setting(found, context),
        "## Accuracy",
        _accuracy(found, context.options),
        _control(found),
        "## Speed",
        _speed(found),
        _accounts(found),
        _growth(found),
        _screening(found),
        _rates(found, context.options),
        _failures(found),
        *(f"![{name}]({name}.png)\n\n{caption}" for name, caption in context.plots.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(found: Figures, context: Context) -> str:
    o = context.options
    partly = f" (of {context.asked} asked)" if found.questions < context.asked else ""
    lines = [
        f"{_questions(found.questions)}{partly}, {o.chains} chains each, temperature {o.temperature:g}, seed {o.seed}. "
        "Each question was answered in all ways, one after the other, in an order that changed. Intervals are 95 % "
        "bootstrap intervals over questions, those of shares no narrower than so few questions allow where all agree; "
        "p-values are of the exact paired (McNemar) test.",
        "",
        f"    {context.command}",
        "",
        f"{context.date:%Y-%m-%d}; " + "; ".join(f"{name} {value}" for name, value in context.machine.items()) + ".",
    ]
    if context.peak_memory is not None:
        lines[-1] += f" Peak memory of the process: {context.peak_memory / 2**20:.0f} MiB."
    return "\n".join(lines)


def _accuracy(found: Figures, options: Options) -> str:
    names = ["", "by majority", "against the target", f"by vote={options.vote}", "against the target"]
    head = [*names, "any chain right", "a chain is right", "taken over", "target's share of written tokens"]
    ways = [f for f in found.ways.values() if f.way.main]
    table = _table(head, [_accuracy_row(found, f) for f in ways])
    if all(f.way.mode not in RATED for f in ways):
        return table
    ran = (
        f"A1 ran with {options.coverage} coverage, the {options.calibrator} calibrator and takeover={options.takeover}."
    )
    return f"{ran}\n\n{table}"


def _accuracy_row(found: Figures, f: WayFigures) -> list[str]:
    cells = [f.way.name]
    for vote, estimate in (("majority", f.majority), ("vote", f.vote)):
        target = found.alone(f.way)
        against = None if target is None or target is f else compare(f, target, vote, found.bootstrap)
        cells += [_estimate(estimate), _compared(against)]
    written = f.tokens.drafted + f.tokens.target
    share = f.tokens.target / written if written else None
    return [*cells, f"{f.any_right:.3f}", f"{f.chains_right:.3f}", _number(f.observed_rate), _number(share, 2)]


def _control(found: Figures) -> str:
    """A1 against as many takeovers on random steps."""
    controls = {f.way.rate: f for f in found.of("a1-random")}
    rows = [
        [
            f"{f.way.rate:g}",
            *(_compared(compare(f, controls[f.way.rate], vote, found.bootstrap)) for vote in _VOTES),
            f"{f.chains_right - controls[f.way.rate].chains_right:+.3f}",
            _number(f.selectivity, 2),
        ]
        for f in found.of("a1")
        if f.way.rate in controls
    ]
    if not rows:
        return ""
    head = ["rate", "by majority", "by the vote", "a chain is right", "selectivity"]
    return "A1 less as many takeovers on random steps: what the scores are worth.\n\n" + _table(head, rows)


def _speed(found: Figures) -> str:
    head = [
        "",
        "seconds a question",
        "questions a minute",
        "speed-up over the target",
        "its ceiling",
        "tokens drafted",
        "scored",
        "written by the target",
        "compute / waiting",
    ]
    energy = any(f.energy_j is not None for f in found.ways.values())
    rows = [_speed_row(f, energy) for f in found.ways.values() if f.way.main]
    return _table([*head, *(["joules"] if energy else [])], rows) + "\n\n" + _bare(found)


def _speed_row(f: WayFigures, energy: bool) -> list[str]:
    return [
        f.way.name,
        _estimate(f.seconds),
        "" if f.seconds is None else f"{60 / f.seconds.value:.1f}",
        _estimate(f.speedup, 2),
        _number(f.ceiling, 2),
        *(f"{count:.0f}" for count in (f.tokens.drafted, f.tokens.scored, f.tokens.target)),
        _number(f.intensity, 2),
        *([_number(f.energy_j, 1)] if energy else []),
    ]


def _bare(found: Figures) -> str:
    bare = found.bare
    if bare is None:
        return ""
    batch = bare.batches
    said = [f"the draft writes {bare.draft:.0f} tokens a second (batch {batch.get('draft', 1)})"]
    if any(f.tokens.scored for f in found.of("a1")):
        said.append(f"the target scores {bare.score:.0f} (batch {batch.get('verify', 1)})")
    if bare.takeover is not None:
        said.append(f"the target writes {bare.takeover:.0f} in takeovers (batch {batch['takeover']})")
    if bare.alone is not None:
        said.append(f"the target alone writes {bare.alone:.0f} (batch {batch['alone']})")
    taken = "" if found.resamples else " + taken over/R_t"
    parts = f"1/R_d + scored/S_t{taken}" if found.shared else f"max(1/R_d, scored/S_t{taken})"
    standing = many = ""
    if found.resamples:
        standing = ", times the share of drafted tokens that stand, as rejected steps are drafted anew"
    if bare.takeover is not None and len({f.way.rate for f in found.of("a1")}) > 1:
        many = (
            " That batch of takeovers is the mean of all rates: at low rates, where fewer come at once, the ceiling is "
            "somewhat too high, at high ones too low."
        )
    at_once = "" if found.shared else ", where both run at once"
    return (
        "The ceiling is the speed-up that the models' bare rates allow at equal lengths"
        f"{at_once}: (1/R_t) / ({parts}){standing}. Bare rates (one model at work and nothing else, at the batch "
        f"that occurred; medians over the run): {', '.join(said)}." + many
    )


def _accounts(found: Figures) -> str:
    """Where the seconds of A1 go."""
    rows = [
        [
            f.way.name,
            f"{a.efficiency:.2f}",
            *(f"{seconds:.3f}" for seconds in (a.wall, a.ideal, a.prompt, a.draft, a.score, a.takeover, a.rest)),
        ]
        for f in found.of("a1")
        if (a := f.account) is not None
    ]
    if not rows:
        return ""
    head = ["", "efficiency", "seconds", "ideal", "prompt", "drafting", "scoring", "takeovers", "no model at work"]
    text = (
        "Where the seconds of a question go. Ideal: what the models would take for the same tokens at their bare "
        f"rates, {'in turn' if found.shared else 'the busier one, as both run at once'}; efficiency: ideal / real."
    )
    if any(f.account.efficiency > _IMPOSSIBLE for f in found.of("a1") if f.account is not None):
        text += (
            " An efficiency above 1 says that something else kept the machine busy while the bare rates were measured: "
            "trust neither it nor the ceiling, and measure again on a quiet machine."
        )
    return f"{text}\n\n{_table(head, rows)}"


def _growth(found: Figures) -> str:
    more = [f for mode in ("target", "a1", "a1-sync") for f in found.of(mode, "chains")]
    if not more:
        return ""
    rows = [
        [
            f"{f.way.mode} {f.way.rate:g}" if f.observed_rate is not None else f.way.mode,
            str(f.way.chains),
            _estimate(f.seconds),
            _estimate(f.speedup, 2),
            f"{f.waiting_s / f.way.chains:.3f}",
        ]
        for f in more
    ]
    head = ["", "chains", "seconds a question", "speed-up over the target", "seconds a chain waits"]
    return "More and fewer chains.\n\n" + _table(head, rows)


def _screening(found: Figures) -> str:
    ways = found.of("a1", "scored")
    if not ways:
        return ""
    rows = [
        [
            f"{f.way.verify:g}",
            _estimate(f.vote),
            "" if (target := found.alone(f.way)) is None else _compared(compare(f, target, "vote", found.bootstrap)),
            f"{f.tokens.scored / max(1.0, f.tokens.drafted):.2f}",
            _number(f.observed_rate),
            _estimate(f.seconds),
            _estimate(f.speedup, 2),
            _number(f.ceiling, 2),
        ]
        for f in ways
    ]
    head = ["steps scored", "by the vote", "against the target", "tokens scored", "taken over of scored"]
    return (
        f"Screening, at a rate of {ways[0].way.rate:g}: the target scores only the share of steps that are strangest "
        "to the draft itself.\n\n"
        + _table([*head, "seconds a question", "speed-up over the target", "its ceiling"], rows)
    )


def _rates(found: Figures, options: Options) -> str:
    rated = [f for f in found.ways.values() if f.way.main and f.observed_rate is not None]
    rows = [
        [
            f.way.name,
            _number(f.observed_rate),
            _number(_mean_gap([(t.rejections, t.verifications) for t in f.by_turn], f.way.rate, 70)),
            _number(_mean_gap(_of_questions(f), f.way.rate, 16)),
            _number(f.selectivity, 2),
        ]
        for f in rated
    ]
    if not rows:
        return ""
    head = ["", "observed", "mean gap of turns", "mean gap of questions", "selectivity"]
    bound = f", and by question to within {RATE_MARGIN} from {RATE_STEPS} steps on,"
    kept = bound if options.coverage == "conditional" else ","
    return (
        "## Rejection rates\n\n"
        f"What is guaranteed is the overall rate{kept} not that answers are right; rates by turn (of at least 70 "
        "steps) and gaps by question (at least 16) are measured. Selectivity: the chance that a rejected step scored "
        "worse than an accepted one of its question.\n\n" + _table(head, rows)
    )


def _of_questions(f: WayFigures) -> list[tuple[int, int]]:
    return [(r.stats.rejections, r.stats.verifications) for r in f.records if r.stats is not None]


def _mean_gap(counts: Iterable[tuple[int, int]], asked: float, least: int) -> float | None:
    gaps = [abs(rejected / steps - asked) for rejected, steps in counts if steps >= least]
    return sum(gaps) / len(gaps) if gaps else None


def _failures(found: Figures) -> str:
    failed = {name: f.errors for name, f in found.ways.items() if f.errors}
    if not failed:
        return ""
    lines = [f"{name}: {_questions(len(errors))}, the first: {errors[0]}" for name, errors in failed.items()]
    text = (
        "They count as wrong. Seconds, tokens and what follows from them are of the "
        f"{_questions(found.timed)} that every way answered."
    )
    return f"## Questions without an answer\n\n{text}\n\n" + _bullets(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _estimate(e: Estimate | None, digits: int = 3) -> str:
    if e is None:
        return ""
    interval = "" if math.isnan(e.low) else f" ({e.low:.{digits}f} to {e.high:.{digits}f})"
    return f"{e.value:.{digits}f}{interval}"


def _compared(c: Compared | None) -> str:
    if c is None:
        return ""
    d = c.difference
    return f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), p = {c.p_value:.2g}"


def _questions(count: int) -> str:
    return f"{count} question{'' if count == 1 else 's'}"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"
