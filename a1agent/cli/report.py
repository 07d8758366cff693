"""A result as people read it: the answer, the winning reasoning, notices, and a short table of statistics."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from a1agent.cli.console import counted, glyphs, one_line, printable
from a1agent.notices import ceiling
from a1agent.stats import RejectionStats
from a1agent.types import ChainResult, Result

__all__ = ["print_result", "print_stats", "stats_line"]

_READABLE_WIDTH = 100
_WIDE = 110
_NARROW = 40


def print_result(out: Console, result: Result) -> None:
    """Prints all of a result to a terminal."""
    width = min(out.width, _READABLE_WIDTH)
    out.print()
    out.print(_answer_line(result))
    out.print()
    winner = next((c for c in result.chains if c.index == result.winner), None)
    title = f"chain {winner.index + 1}" if winner else "no chain"
    out.print(Rule(Text(title, "dim"), align="left", style="dim", characters=glyphs(out.encoding).rule), width=width)
    out.print(_reasoning(winner) if winner else Text(printable(result.text)), width=width)
    for notice in result.notices:
        out.print()
        out.print(Text.assemble(("note: ", "bold yellow"), one_line(notice)), width=width)
    out.print()
    print_stats(out, result.stats, result)


def _answer_line(result: Result) -> Text:
    if result.answer is None:
        return Text("no chain stated an answer", "bold yellow")
    line = Text.assemble(("answer  ", "dim"), (one_line(result.answer), "bold green"))
    line.append(f"   {_share(result)}", "dim")
    if not result.complete:
        line.append("   time limit: the best so far", "yellow")
    return line


def _share(result: Result) -> str:
    return f"confidence {result.confidence:.2f}"


def _reasoning(chain: ChainResult) -> Text:
    """The chain's text, what the target wrote set off in its colour."""
    text, at = Text(), 0
    for turn in chain.turns:
        drafted, written = (turn.kept, turn.taken_over.text) if turn.taken_over else (turn.drafted.text, "")
        place = chain.text.find(drafted + written, at)  # after what was said for the models
        if place >= 0:
            text.append(printable(chain.text[at : place + len(drafted)]))
            text.append(printable(written), "magenta")
            at = place + len(drafted + written)
    text.append(printable(chain.text[at:]))
    text.rstrip()
    return text


def print_stats(out: Console, stats: RejectionStats, result: Result | None = None) -> None:
    """Prints the table of statistics, one column of facts or, on a wide terminal, two; on a narrow one a list.

    The answer of `result` stands in it again: a long reasoning may have scrolled it away.
    """
    facts = _facts(stats, result)
    if out.width < _NARROW:  # beside the names there would be no room
        for name, value in facts:
            out.print(Text.assemble((f"{name}: ", "dim"), value))
        return
    columns = 2 if out.width >= _WIDE else 1
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
    height = -(-len(facts) // columns)
    for row in range(height):
        table.add_row(*(cell for fact in facts[row::height] for cell in fact))
    out.print(Padding(table, 0))


def _facts(stats: RejectionStats, result: Result | None) -> list[tuple[str, str]]:
    limit = ceiling(stats)
    facts = [
        ("rejection rate", f"{_number(stats.observed_rate)}, asked {stats.asked_rate:.2f}"),
        ("verified", f"{counted(stats.verifications, 'step')}, {stats.rejections} taken over{_unverified(stats)}"),
        ("chains", _chains(stats, result)),
        ("draft wrote", f"{stats.drafted_tokens} tokens, {stats.kept_tokens} kept"),
        ("target", f"wrote {stats.target_tokens} tokens, scored {stats.scored_tokens}"),
        ("time", f"{stats.wall_s:.1f} s{_speeds(stats)}"),
        ("selectivity", _number(stats.selectivity)),
        ("calibration", f"{stats.calibrator}, {stats.coverage}, {counted(stats.calibration_size, 'score')}"),
        ("speed-up ceiling", "not measured" if limit is None else f"{limit:.2f} over the target alone"),
    ]
    if result is None:
        return facts
    answer = "none" if result.answer is None else one_line(result.answer)
    return [("answer", f"{answer}, {_share(result)}"), *facts]


def _chains(stats: RejectionStats, result: Result | None) -> str:
    """How they ended; those that the time limit cut may vote, and count as finished elsewhere."""
    cut = sum(chain.end == "timeout" for chain in result.chains) if result else 0
    parts = [f"{stats.chains_finished - cut} finished"]
    parts += [f"{cut} out of time"] if cut else []
    parts += [f"{stats.chains_cancelled} cancelled"] if stats.chains_cancelled else []
    parts += [f"{stats.chains_failed} failed"] if stats.chains_failed else []
    left = stats.chains_started - stats.chains_finished - stats.chains_cancelled - stats.chains_failed
    parts += [f"{left} interrupted"] if left else []
    return f"{stats.chains_started}: {', '.join(parts)}"


def _speeds(stats: RejectionStats) -> str:
    rates = (("draft", stats.draft_tokens_per_s), ("target", stats.target_tokens_per_s))
    known = [f"{name} {rate:,.0f}" for name, rate in rates if rate]
    return f" ({', '.join(known)} tokens/s)" if known else ""


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _unverified(stats: RejectionStats) -> str:
    return f", {stats.unverified} accepted unscored" if stats.unverified else ""


def stats_line(stats: RejectionStats, result: Result | None = None) -> str:
    """The statistics in one line; of `result` it takes which chains ran out of time."""
    steps = f"{counted(stats.verifications, 'step')}{_unverified(stats)}"
    return (
        f"rejection rate {_number(stats.observed_rate)} (asked {stats.asked_rate:.2f}) over {steps}; "
        f"chains {_chains(stats, result)}; tokens: draft {stats.drafted_tokens}, "
        f"target {stats.target_tokens} written and {stats.scored_tokens} scored; {stats.wall_s:.1f} s"
    )
