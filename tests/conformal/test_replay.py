import builtins
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from a1agent.conformal.feedback import RATE_MARGIN, rate_gap_bound
from a1agent.conformal.replay import (
    ReplayReport,
    TraceStep,
    measure_replay,
    plot_replay,
    read_calibration,
    read_trace,
    replay_steps,
)

DATA = Path(__file__).parents[1] / "data"
TRACE = DATA / "math500_r1-llama-8b_qwq-32b.csv"
HEADER = "question,chain,turn,attempt,perplexity\n"


def replay(trace: list[TraceStep], *, rejection_rate: float, **chosen: Any) -> ReplayReport:
    return measure_replay(replay_steps(trace, rejection_rate=rejection_rate, **chosen), rejection_rate)


@pytest.fixture(scope="module")
def trace() -> list[TraceStep]:
    if not TRACE.exists():
        pytest.skip("the recorded trace is not part of the source distribution")
    return read_trace(TRACE)


@pytest.mark.parametrize("seed", range(10))
def test_marginal_coverage_keeps_the_rate_on_the_recorded_trace(trace, seed):
    report = replay(trace, rejection_rate=0.4, seed=seed)
    assert report.steps == 6076
    assert abs(report.overall_rate - 0.4) <= 0.005
    assert report.mean_turn_deviation <= 0.025
    assert report.mean_window_deviation <= 0.022
    assert report.max_window_deviation <= 0.09
    assert report.selectivity >= 0.94


@pytest.mark.parametrize("seed", range(10))
def test_conditional_coverage_keeps_the_rate_of_each_question_on_the_recorded_trace(trace, seed):
    report = replay(trace, rejection_rate=0.4, coverage="conditional", seed=seed)
    assert abs(report.overall_rate - 0.4) <= 0.01
    assert report.mean_turn_deviation <= 0.025
    assert report.mean_question_deviation <= 0.05
    assert report.max_question_deviation <= RATE_MARGIN + 1e-9
    assert report.mean_window_deviation <= 0.015
    assert report.max_window_deviation <= 0.07
    assert report.selectivity >= 0.92


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6, 0.8])
def test_the_same_constants_keep_other_rates(trace, rate, coverage):
    report = replay(trace, rejection_rate=rate, coverage=coverage)
    assert abs(report.overall_rate - rate) <= min(0.005, rate_gap_bound(report.steps))
    assert report.mean_turn_deviation <= 0.025
    assert report.mean_window_deviation <= 0.025
    assert report.selectivity >= 0.92


def test_a_fixed_level_follows_scores_only_and_does_not_keep_windows(trace):
    report = replay(
        trace,
        rejection_rate=0.4,
        calibrator="static",
        calibration=read_calibration(DATA / "math500_r1-llama-8b_qwq-32b_calibration.csv"),
    )
    assert report.selectivity == pytest.approx(1.0, abs=1e-3)
    assert report.max_window_deviation > 0.3


def test_the_trace_is_read_in_the_order_of_replay(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(
        "perplexity,question,note,chain,turn,attempt\n"
        "1.5,10,x,0,0,0\n1.5,9,x,1,0,0\n1.5,9,x,0,1,0\n1.5,9,x,0,0,1\n1.5,9,x,0,0,0\n",
        encoding="utf-8",
    )
    order = [(s.question, s.turn, s.attempt, s.chain) for s in read_trace(path)]
    assert order == [("9", 0, 0, 0), ("9", 0, 0, 1), ("9", 0, 1, 0), ("9", 1, 0, 0), ("10", 0, 0, 0)]


def test_questions_may_have_names_and_the_file_a_byte_order_mark(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "b,0,0,0,1.5\na,0,0,0,nan\n", encoding="utf-8-sig")
    steps = read_trace(path)
    assert [s.question for s in steps] == ["a", "b"]
    assert replay(steps, rejection_rate=0.0).overall_rate == 0.5  # what is not finite is a takeover


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        (HEADER, "no steps"),
        ("question,chain,turn,perplexity\n0,0,0,1.5\n", "missing column 'attempt'"),
        (HEADER + "0,0,0,0,1.5\n0,0,0,0,many\n", "line 3, column 'perplexity': 'many' is not a number"),
        (HEADER + "0,0,zero,0,1.5\n", "line 2, column 'turn'"),
        (HEADER + "0,0,-1,0,1.5\n", "line 2, column 'turn'"),
        (HEADER + "0,0,0,0,0\n", "not positive"),
        (HEADER + "0,0,0\n", "line 2, column 'attempt': is empty"),
        (HEADER + ",0,0,0,1.5\n", "line 2, column 'question': is empty"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line_and_column(tmp_path, text, named):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=named) as refused:
        read_trace(path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00\x01" * 20)
    with pytest.raises(ValueError, match="not a CSV text file"):
        read_trace(path)


def test_measures_that_a_short_trace_cannot_give_are_none():
    steps = [TraceStep(question="0", chain=c, turn=0, attempt=0, perplexity=1.5 + c) for c in range(4)]
    report = replay(steps, rejection_rate=1.0)
    assert asdict(report) == asdict(
        ReplayReport(
            steps=4,
            overall_rate=1.0,
            mean_turn_deviation=None,
            max_turn_deviation=None,
            mean_question_deviation=None,
            max_question_deviation=None,
            mean_window_deviation=None,
            max_window_deviation=None,
            selectivity=None,
        )
    )
    with pytest.raises(ValueError, match="no steps"):
        measure_replay([], 0.4)


def test_a_plot_is_written(trace, tmp_path):
    pytest.importorskip("matplotlib")
    steps = replay_steps(trace[:500], rejection_rate=0.4)
    for path in (tmp_path / "rates.png", tmp_path / "rates"):
        plot_replay(steps, 0.4, measure_replay(steps, 0.4), path)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_names_the_extra_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    monkeypatch.delitem(sys.modules, "a1agent.conformal.plots", raising=False)
    steps = replay_steps([TraceStep(question="1", chain=0, turn=0, attempt=0, perplexity=2.0)], rejection_rate=0.4)
    with pytest.raises(ImportError, match=r"pip install 'a1agent\[bench\]'"):
        plot_replay(steps, 0.4, measure_replay(steps, 0.4), tmp_path / "rates.png")
