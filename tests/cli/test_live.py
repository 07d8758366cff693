"""The live view, drawn without a terminal."""

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from a1agent.cli.console import glyphs, one_line, printable
from a1agent.cli.live import LiveView
from a1agent.cli.progress import Progress
from a1agent.cli.report import print_result, stats_line
from a1agent.config import Options
from a1agent.events import ChainFinished, ChainStarted, StepAccepted, StepDrafted, StepTakenOver, StepVerified
from a1agent.fold import StatsFold
from a1agent.types import ChainResult, Step, Turn, Verdict


def console(width: int = 80, height: int = 24) -> Console:
    plain: Any = {"highlight": False, "markup": False, "color_system": None, "legacy_windows": False}
    return Console(file=io.StringIO(), width=width, height=height, **plain)


def drawn(view: LiveView, out: Console) -> list[str]:
    with out.capture() as captured:
        out.print(view)
    return captured.get().splitlines()


def step(author: str = "draft") -> Step:
    return Step(text="so\n\n", author=author, tokens=3)  # type: ignore[arg-type]


def verdict(rejected: bool) -> Verdict:
    return Verdict(score=1.0, p_value=0.02 if rejected else 0.8, level=0.3, rejected=rejected, calibration_size=9)


def play(view: LiveView, chain: int, rejected: bool) -> None:
    view.add(StepDrafted(chain=chain, turn=0, step=step()))
    view.add(StepVerified(chain=chain, turn=0, verdict=verdict(rejected), scored_tokens=3))
    if rejected:
        view.add(StepTakenOver(chain=chain, turn=0, step=step("target"), takeover="rewrite"))
    else:
        view.add(StepAccepted(chain=chain, turn=0, step=step()))


def finish(view: LiveView, chain: int, answer: str | None, end: str = "answered", error: str | None = None) -> None:
    result = ChainResult(index=chain, text="", answer=answer, turns=(), end=end, error=error)  # type: ignore[arg-type]
    view.add(ChainFinished(chain=chain, result=result))


def test_spellings_of_one_answer_are_one_vote() -> None:
    out = console()
    view = LiveView(out, "a and b", turns=3)
    for chain, answer in enumerate(("0.5", r"\frac{1}{2}", "2")):
        view.add(ChainStarted(chain=chain))
        finish(view, chain, answer)
    assert "0.5 ██ 2" in drawn(view, out)[-2]


def test_a_chain_is_a_line_of_its_turns_its_verdict_and_its_answer() -> None:
    out = console()
    view = LiveView(out, "a and b", turns=3)
    for chain in range(2):
        view.add(ChainStarted(chain=chain))
        play(view, chain, rejected=chain == 1)
    finish(view, 0, "42")
    lines = drawn(view, out)
    assert "●···  p 0.80 > 0.30" in lines[1] and lines[1].endswith("answers 42")
    assert "◆···  p 0.02 ≤ 0.30" in lines[2] and lines[2].endswith("drafts")
    assert "42 █ 1" in lines[3]


def test_the_turn_in_which_a_chain_is_made_to_answer_hides_no_other() -> None:
    out = console()
    view = LiveView(out, "a and b", turns=2)
    view.add(ChainStarted(chain=0))
    for _ in range(3):
        play(view, 0, rejected=False)
    assert "  1 ●●●  p" in drawn(view, out)[1]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    out = console(width)
    view = LiveView(out, "scripted:" + "long" * 40, turns=200)
    for chain in range(3):
        view.add(ChainStarted(chain=chain))
        for _ in range(150):
            play(view, chain, rejected=False)
    finish(view, 0, "答" * 200)
    finish(view, 1, None, "failed", "because\n" * 50)
    lines = drawn(view, out)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) == 6


def test_the_seconds_and_the_signs_are_whole_on_a_narrow_terminal() -> None:
    out = console(60)
    view = LiveView(out, "llama-cpp:/models/small-1.5b-instruct.gguf and llama-cpp:/models/large-14b.gguf", turns=3)
    assert re.search(r"…  \d+\.\d s$", drawn(view, out)[0])
    view.add(ChainStarted(chain=0))
    assert drawn(view, out)[-1].rstrip().endswith("waits for its verdict")


def test_more_chains_than_lines_show_those_that_run() -> None:
    out = console(height=12)
    view = LiveView(out, "a and b", turns=3)
    for chain in range(40):
        view.add(ChainStarted(chain=chain))
        if chain < 35:
            finish(view, chain, "1")
    lines = drawn(view, out)
    assert len(lines) <= 12
    assert any(line.startswith(" 40 ") for line in lines)
    assert any("34 more chains" in line for line in lines)


def test_what_models_write_is_never_markup_and_never_drives_the_terminal() -> None:
    out = console()
    view = LiveView(out, "a and b", turns=3)
    view.add(ChainStarted(chain=0))
    finish(view, 0, "\x1b[2J[bold]\\frac{1}{2}[/bold]\n\x07")
    assert any(line.endswith("answers [2J[bold]\\frac{1}{2}[/bold]") for line in drawn(view, out))


def test_control_characters_are_dropped_and_lines_kept() -> None:
    assert printable("a\x1b]0;title\x07b\u202ec\nd") == "a]0;titlebc\nd"
    assert one_line("a\r\nb\x00\tc") == "a b c"


def test_terminals_that_cannot_show_the_signs_get_plain_ones() -> None:
    assert glyphs("ascii").accepted == "o" and glyphs("utf-8").accepted == "●"
    assert not glyphs("cp1252").accepted.isascii() or glyphs("cp1252").ascii


def test_chains_that_ran_out_of_time_vote_and_are_not_told_as_finished() -> None:
    progress = Progress()
    progress.add(ChainStarted(chain=0))
    progress.add(ChainFinished(chain=0, result=ChainResult(index=0, text="", answer="1", turns=(), end="timeout")))
    assert progress.finished == 0 and progress.answers == {"1": 1}


def test_the_report_tells_the_chains_that_ran_out_of_time_from_those_that_finished() -> None:
    from a1agent import A1

    with A1("scripted:sums?accuracy=1", "scripted:sums", calibration=None, seed=1, early_stop="off") as agent:
        result = agent.solve("Box the sum in \\boxed{}: 1 + 2 + 3")
    cut = replace(result, chains=(*(replace(c, end="timeout") for c in result.chains[:3]), *result.chains[3:]))
    out = console()
    print_result(out, cut)
    assert "8: 5 finished, 3 out of time " in out.file.getvalue()  # type: ignore[attr-defined]
    assert "chains 8: 5 finished, 3 out of time;" in stats_line(cut.stats, cut)
    assert "chains 8: 8 finished;" in stats_line(result.stats, result)


def test_cancelled_chains_do_not_vote() -> None:
    progress = Progress()
    progress.add(ChainStarted(chain=0))
    progress.add(ChainFinished(chain=0, result=ChainResult(index=0, text="", answer="1", turns=(), end="cancelled")))
    assert progress.finished == 0 and not progress.answers


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_the_report_shows_answer_reasoning_and_statistics(width: int) -> None:
    from a1agent import A1

    with A1("scripted:sums?accuracy=1", "scripted:sums", calibration=None, seed=1) as agent:
        result = agent.solve("Box the sum in \\boxed{}: 1 + 2 + 3 + 4 + 5")
    out = console(width)
    print_result(out, result)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "answer  15" in text and "\\boxed{15}" in text
    said = " ".join(text.split())
    for fact in ("rejection rate", "selectivity", "speed-up ceiling", "confidence", "asked 0.30"):
        assert fact in said
    assert max(map(cell_len, text.splitlines())) <= width and len(text.splitlines()) < 60


def test_what_the_target_wrote_is_set_off_where_it_stands() -> None:
    from a1agent import A1

    with A1("scripted:sums", "scripted:sums", calibration=None, seed=1, chains=1) as agent:
        result = agent.solve("Box the sum in \\boxed{}: 1 + 2")
    first, second = Step(text="So 6.\n\n", author="draft", tokens=4), Step(text="It is 5.", author="draft", tokens=5)
    written = Step(text="6.", author="target", tokens=2)
    turns = (
        Turn(index=0, drafted=first, verdict=verdict(False)),
        Turn(index=1, drafted=second, verdict=verdict(True), kept="It is ", taken_over=written),
    )
    chain = ChainResult(index=0, text="So 6.\n\nIt is 6.", answer="6", turns=turns, end="ended")
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    print_result(out, replace(result, chains=(chain,), winner=0))
    assert "So 6.\n\nIt is \x1b[35m6." in out.file.getvalue()  # type: ignore[attr-defined]


def test_one_step_is_no_steps_and_chains_under_way_are_told() -> None:
    fold = StatsFold(Options())
    for event in (ChainStarted(chain=0), ChainStarted(chain=1)):
        fold.add(event)
    fold.add(StepVerified(chain=0, turn=0, verdict=verdict(True), scored_tokens=3))
    line = stats_line(fold.stats(1.0))
    assert "over 1 step; chains 2: 0 finished, 2 interrupted;" in line
