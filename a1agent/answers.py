"""From a question to what its chains must state, and from how they ended to the result."""

from __future__ import annotations

from dataclasses import dataclass

from a1agent import structured, tools
from a1agent.config import Options
from a1agent.engine.loop import Outcome
from a1agent.engine.statement import Statement, plain_statement
from a1agent.errors import InvalidAnswer, SolveError
from a1agent.prompts import asks_for_box, split_thinking
from a1agent.stats import RejectionStats
from a1agent.structured import JsonFormat
from a1agent.types import Question, Result, Usage

__all__ = ["Asked", "prepare", "result_of"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as the models are shown it, and how its chains state their answers."""

    question: Question
    statement: Statement
    format: JsonFormat | None


def prepare(question: Question, options: Options) -> Asked:
    """What to show the models and what to read. Raises `InvalidQuestion` for tools or formats that are none."""
    offered = tools.offer(question)
    wanted = structured.format_of(offered)
    shown = offered if wanted is None else wanted.ask(offered)
    if wanted is not None:
        statement = wanted.statement(options.answer_tokens)
    else:
        statement = plain_statement(options.answer, asks_for_box(shown), options.answer_tokens)
    if shown.tools:
        statement = tools.tool_statement(shown, statement)
    return Asked(shown, statement, wanted)


def result_of(asked: Asked, outcome: Outcome, stats: RejectionStats, usage: Usage) -> Result:
    """The result of a call whose chains have voted, without notices and the count of its text's tokens.

    Raises `SolveError` when every chain failed, `InvalidAnswer` when none stated what it had to.
    """
    _check_failures(outcome, stats)
    winner = next((c for c in outcome.chains if c.index == outcome.vote.winner), None)
    thinking, message = split_thinking(winner.text) if winner else (None, "")
    if asked.statement.required and outcome.vote.answer is None:
        what, hint = _invalid(asked, message, outcome.timed_out)
        raise InvalidAnswer(what, hint, message, stats, usage)
    found = tools.calls_in(message, asked.question)
    return Result(
        answer=outcome.vote.answer,
        text=found.content,
        reasoning=thinking if thinking is not None else found.content,
        confidence=outcome.vote.confidence,
        complete=not outcome.timed_out,
        chains=tuple(outcome.chains),
        winner=outcome.vote.winner,
        stats=stats,
        usage=usage,
        tool_calls=found.calls,
        invalid_tool_calls=found.invalid,
    )


def _check_failures(outcome: Outcome, stats: RejectionStats) -> None:
    if outcome.causes and not any(chain.finished for chain in outcome.chains):
        first = outcome.causes[0]
        raise SolveError(f"all {len(outcome.causes)} chains failed", str(first), outcome.causes, stats) from first


def _invalid(asked: Asked, message: str, timed_out: bool) -> tuple[str, str]:
    """What is wrong with the message, and what to do about it."""
    shown = asked.question
    malformed = tools.calls_in(message, shown).invalid if shown.tools else ()
    why = f" ({malformed[0].error})" if malformed else ""
    if asked.format is None or (shown.tools and shown.tool_choice == "required"):
        what = f"no chain called a tool, though one had to be called{why}"
        hint = "use more chains, or a target that was trained to call tools"
    elif malformed:
        what, hint = f"no chain gave a call that can be made{why}", "use more chains"
    else:
        what = f"no chain gave an answer in the asked format ({asked.format.complaint(message)})"
        hint = "use more chains"
    if timed_out:
        what, hint = f"{what} before the time limit passed", "raise timeout_s, or use fewer chains"
    return what, hint
