"""From records to estimates, comparisons and sentences."""

import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from a1agent.bench.figures import Figures, ceiling, compare, figures
from a1agent.bench.ledger import Record
from a1agent.bench.plots import draw_plots
from a1agent.bench.report import Context, report
from a1agent.bench.statistics import Bootstrap, paired_p_value, sign_flip_p_value, sure_of
from a1agent.bench.verdict import verdicts
from a1agent.bench.ways import Way
from a1agent.config import Coverage, Options
from a1agent.conformal.feedback import RATE_MARGIN, RATE_STEPS
from tests.bench.made import bare, records

TARGET, A1, CONTROL, SYNC = (
    Way(m, r, 8) for m, r in (("target", 0), ("a1", 0.2), ("a1-random", 0.2), ("a1-sync", 0.2))
)

CONTEXT = Context(
    draft="a draft",
    target="a target",
    data="a set",
    asked=20,
    options=Options(seed=1),
    command="a1 bench --limit 20",
    machine={"processor": "an abacus"},
    date=datetime(2026, 1, 2, tzinfo=UTC),
    peak_memory=3 << 20,
    plots={"accuracy": "Accuracy."},
)


def of(*runs: tuple[Way, float, float], count: int = 60) -> Figures:
    made = [r for way, right, seconds in runs for r in records(way, count, right=right, seconds=seconds)]
    return figures(made, [bare()], [way for way, _, _ in runs], shared=True)


def test_intervals_hold_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    bootstrap = Bootstrap(80)
    held = [e.low <= 2.0 <= e.high for e in (bootstrap.mean(s) for s in rng.normal(2.0, 1.0, (200, 80)))]
    assert 0.88 < np.mean(held) < 0.99


def test_a_ratio_is_of_sums_and_narrow_where_questions_vary_together() -> None:
    seconds = np.random.default_rng(1).exponential(1.0, 200)
    found = Bootstrap(200).ratio(3 * seconds, seconds)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize(("only", "other", "p"), [(9, 1, 22 / 1024), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0)])
def test_the_paired_test_is_the_exact_binomial_one(only: int, other: int, p: float) -> None:
    right = np.array([True] * only + [False] * other + [True] * 7)
    against = np.array([False] * only + [True] * other + [True] * 7)
    assert paired_p_value(right, against) == pytest.approx(p)


def test_the_paired_test_is_seldom_sure_of_what_is_chance() -> None:
    rng = random.Random(2)
    sure = 0
    for _ in range(400):
        pairs = np.array([[rng.random() < 0.6, rng.random() < 0.6] for _ in range(60)])
        sure += paired_p_value(pairs[:, 0], pairs[:, 1]) < 0.05
    assert sure <= 30


def test_the_ceiling_is_the_formula_of_the_design() -> None:
    # 1 ms a token alone; 0.25 to draft, 0.25 to score, and 2 in takeovers, of which there is one in five
    assert ceiling(bare(), 1.0, 0.2) == pytest.approx(1 / (0.25 + 0.25 + 0.2 * 2))
    assert ceiling(bare(), 0.5, 0.1) == pytest.approx(1 / (0.25 + 0.125 + 0.1 * 2))
    assert ceiling(bare(), 1.0, 0.2, shared=False) == pytest.approx(1 / (0.25 + 0.2 * 2))
    assert ceiling(bare(), 0.1, 0.0, shared=False) == pytest.approx(1 / 0.25)
    assert ceiling(bare(alone=None), 1.0, 0.2) is None
    assert ceiling(bare(takeover=None), 1.0, 0.0) == pytest.approx(2.0)


def test_the_ceiling_of_a_model_that_judges_itself_has_nothing_read() -> None:
    made = records(TARGET, 5, right=1.0, seconds=1.0) + records(A1, 5, right=1.0, seconds=1.0, scored_tokens=0)
    found = figures(made, [bare()], [TARGET, A1], shared=True)
    assert found.ways["a1 0.2"].ceiling == pytest.approx(1 / (0.25 + 0.2 * 2))
    assert "scores" not in report(found, CONTEXT).partition("Bare rates")[2].partition("\n")[0]


def test_where_rejected_steps_are_drafted_anew_the_ceiling_is_of_what_stands() -> None:
    drawn = {"scored_tokens": 0, "target_tokens": 0, "kept_tokens": 300, "drafted_tokens": 400}
    made = records(TARGET, 5, right=1.0, seconds=1.0) + records(A1, 5, right=1.0, seconds=1.0, **drawn)
    found = figures(made, [bare(takeover=None)], [TARGET, A1], shared=True, resamples=True)
    assert found.ways["a1 0.2"].ceiling == pytest.approx(300 / 400 / 0.25)
    said = report(found, CONTEXT).partition("The ceiling")[2].partition("\n")[0]
    assert "share of drafted tokens that stand" in said and "taken over" not in said


def test_a_report_of_several_rates_says_that_their_takeovers_share_a_batch() -> None:
    shared = "the mean of all rates"
    assert shared not in report(of((TARGET, 0.9, 1.0), (A1, 0.9, 1.0)), CONTEXT)
    assert shared in report(of((TARGET, 0.9, 1.0), (A1, 0.9, 1.0), (Way("a1", 0.5, 8), 0.9, 1.0)), CONTEXT)


def test_figures_are_over_questions_that_every_way_answered() -> None:
    made = records(TARGET, 10, right=1.0, seconds=1.0) + records(A1, 6, right=0.5, seconds=0.5)
    found = figures(made, [], [TARGET, A1], shared=True)
    assert found.questions == 6
    assert found.ways["a1 0.2"].speedup is not None and found.ways["a1 0.2"].speedup.value == pytest.approx(2.0)
    with pytest.raises(ValueError, match="no question"):
        figures(made, [], [TARGET, A1, CONTROL], shared=True)


def test_tokens_of_the_target_alone_are_the_targets() -> None:
    found = of((TARGET, 1.0, 1.0), (A1, 1.0, 1.0))
    assert (found.ways["target"].tokens.drafted, found.ways["target"].tokens.target) == (0, 400)
    assert (found.ways["a1 0.2"].tokens.drafted, found.ways["a1 0.2"].tokens.target) == (400, 80)


def test_the_account_adds_up_to_the_seconds() -> None:
    account = of((TARGET, 1.0, 1.0), (A1, 1.0, 0.5)).ways["a1 0.2"].account
    assert account is not None
    assert account.ideal == pytest.approx(400 / 4000 + 400 / 4000 + 80 / 500)
    parts = account.prompt + account.draft + account.score + account.takeover + account.rest
    assert parts == pytest.approx(account.wall) and account.efficiency == pytest.approx(account.ideal / account.wall)


def test_models_that_ran_at_once_leave_no_negative_seconds() -> None:
    account = of((TARGET, 1.0, 1.0), (A1, 1.0, 0.1)).ways["a1 0.2"].account
    assert account is not None and account.draft + account.score > account.wall and account.rest == 0


def test_on_two_devices_the_ideal_is_the_busier_one() -> None:
    made = records(A1, 5, right=1.0, seconds=1.0)
    account = figures(made, [bare()], [A1], shared=False).ways["a1 0.2"].account
    assert account is not None and account.ideal == pytest.approx(400 / 4000 + 80 / 500)
    found = figures([*made, *records(TARGET, 5, right=1.0, seconds=1.0)], [bare()], [TARGET, A1], shared=False)
    text = report(found, CONTEXT)
    assert "max(1/R_d, scored/S_t + taken over/R_t)" in text and "as both run at once" in text


def test_bare_rates_are_medians_over_the_run() -> None:
    made = records(A1, 5, right=1.0, seconds=1.0)
    rates = [bare(draft=d, alone=a) for d, a in ((1.0, None), (9.0, 7.0), (5.0, 9.0))]
    found = figures(made, rates, [A1], shared=True).bare
    assert found is not None and (found.draft, found.alone) == (5.0, 8.0)


def test_where_a1_is_slower_and_no_better_the_target_alone_is_named_the_better_choice() -> None:
    first = verdicts(of((TARGET, 0.9, 1.0), (A1, 0.9, 2.0)))[0]
    assert first.startswith("The target alone is the better choice here") and "0.50 times as fast" in first


def test_where_a1_is_faster_and_as_good_it_is_named_the_better_choice() -> None:
    assert verdicts(of((TARGET, 0.9, 1.0), (A1, 0.9, 0.4), count=80))[0].startswith(
        "A1 at a rate of 0.2 is the better choice: 2.50"
    )


def test_where_a1_is_faster_and_right_more_often_that_is_not_laid_to_chance() -> None:
    first = verdicts(of((TARGET, 0.5, 1.0), (A1, 0.9, 0.4), count=80))[0]
    assert first.startswith("A1 at a rate of 0.2 is the better choice: 2.50") and "cannot tell" not in first


def test_speed_that_costs_accuracy_is_called_that() -> None:
    assert verdicts(of((TARGET, 0.9, 1.0), (A1, 0.5, 0.4)))[0].startswith("A1 buys speed with accuracy")


def test_accuracy_that_costs_speed_is_called_that() -> None:
    first = verdicts(of((TARGET, 0.5, 1.0), (A1, 0.9, 2.0)))[0]
    assert first.startswith("No rate of A1 is shown to be faster") and "0.50 times the speed" in first


def test_a_control_that_is_not_beaten_shows_that_scoring_is_worth_nothing() -> None:
    worthless = verdicts(of((A1, 0.8, 1.0), (CONTROL, 0.8, 1.0)))
    worthy = verdicts(of((A1, 0.8, 1.0), (CONTROL, 0.5, 1.0)))
    assert worthless[0].startswith("Scoring has shown nothing")
    assert worthy[0].endswith("random steps by majority at 0.2, chain by chain at 0.2.")


def test_an_efficiency_that_cannot_be_is_not_passed_over() -> None:
    def said(seconds: float) -> bool:
        found = of((TARGET, 0.9, 1.0), (A1, 0.9, seconds))
        return "An efficiency above 1" in report(found, CONTEXT)

    assert said(0.1) and not said(1.0)


def test_what_is_guaranteed_is_told_of_the_coverage_asked_for() -> None:
    found = of((TARGET, 0.9, 1.0), (A1, 0.9, 1.0))
    capped = replace(CONTEXT, options=replace(CONTEXT.options, coverage="conditional"))
    assert f"and by question to within {RATE_MARGIN}" in report(found, capped)
    assert f"to within {RATE_MARGIN}" not in report(found, CONTEXT)
    assert (
        f"to {RATE_MARGIN} from {RATE_STEPS} verified steps on"
        in Options.__dataclass_fields__["coverage"].metadata["help"]
    )


def test_the_coverage_stands_beside_the_accuracy_that_was_measured_with_it() -> None:
    def accuracy(coverage: Coverage, *runs: tuple[Way, float, float]) -> str:
        context = replace(CONTEXT, options=replace(CONTEXT.options, coverage=coverage))
        return report(of(*runs), context).partition("## Accuracy")[2].partition("## ")[0]

    for coverage in get_args(Coverage):
        assert f"A1 ran with {coverage} coverage, the adaptive calibrator and takeover=rewrite." in accuracy(
            coverage, (TARGET, 0.9, 1.0), (A1, 0.9, 1.0)
        )
    assert "coverage" not in accuracy("marginal", (TARGET, 0.9, 1.0))


def test_the_barrier_is_told_as_a_ratio_of_seconds() -> None:
    for seconds in (1.5, 0.5):
        assert verdicts(of((A1, 0.8, 1.0), (SYNC, 0.8, seconds)))[0].endswith(f"take {seconds:.2f} times as long.")


def test_a_comparison_takes_the_vote_it_is_asked_for() -> None:
    found = of((TARGET, 0.9, 1.0), (A1, 0.5, 1.0))
    for vote in ("majority", "vote"):
        compared = compare(found.ways["a1 0.2"], found.ways["target"], vote, found.bootstrap)
        assert compared.difference.high < 0 and compared.p_value < 0.001


def test_the_report_says_how_it_came_to_be_and_counts_what_failed() -> None:
    made = records(TARGET, 20, right=0.9, seconds=1.0) + records(A1, 20, right=0.9, seconds=2.0)
    made[25] = made[25].model_copy(update={"error": "the prompt does not fit", "stats": None})
    text = report(figures(made, [bare()], [TARGET, A1], shared=True), CONTEXT)
    for part in (
        "a1 bench --limit 20",
        "2026-01-02; processor an abacus",
        "3 MiB",
        "![accuracy](accuracy.png)\n\nAccuracy.",
    ):
        assert part in text
    assert "a1 0.2: 1 question, the first: the prompt does not fit" in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4 and "nan" not in text
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def failing(made: list[Record], *problems: int) -> list[Record]:
    """As made, but for questions that failed at once."""
    lost = {"right": False, "majority_right": False, "wall_s": 0.001, "stats": None, "error": "it does not fit"}
    return [r.model_copy(update=lost) if r.problem in problems else r for r in made]


def test_a_question_that_fails_at_once_makes_nothing_faster() -> None:
    ours = failing(records(A1, 60, right=0.9, seconds=2.0), *range(30))
    found = figures([*records(TARGET, 60, right=0.9, seconds=1.0), *ours], [bare()], [TARGET, A1], shared=True)
    a1 = found.ways["a1 0.2"]
    assert (found.questions, found.timed) == (60, 30)
    assert a1.speedup is not None and a1.speedup.value == pytest.approx(0.5)
    assert a1.tokens.drafted == 400 and a1.vote.value < 0.6
    assert verdicts(found)[0].startswith("The target alone is the better choice here")
    assert "of the 30 questions that every way answered" in report(found, CONTEXT)


def test_of_ways_that_answered_nothing_together_no_speed_is_told(tmp_path: Path) -> None:
    ours, sync = (failing(records(way, 6, right=0.9, seconds=2.0), *range(6)) for way in (A1, SYNC))
    made = [*records(TARGET, 6, right=0.9, seconds=1.0), *ours, *sync]
    found = figures(made, [bare()], [TARGET, A1, SYNC], shared=True)
    assert verdicts(found)[0].startswith("No question was answered in every way")
    text = report(found, CONTEXT)
    assert "times as" not in text and "nan" not in text and "## Rejection rates" not in text
    assert set(draw_plots(found, tmp_path)) == set()


def test_one_question_has_no_interval_of_seconds(tmp_path: Path) -> None:
    found = of((TARGET, 1.0, 1.0), (A1, 1.0, 2.0), count=1)
    assert verdicts(found)[0].startswith("This run does not show A1 to be faster")
    assert "than it (it is right in " in verdicts(found)[0], "whose share of right answers this is"
    text = report(found, CONTEXT)
    assert "nan" not in text and "| 0.50 |" in text and "\n1 question (of 20 asked)" in text
    assert "speedup" in draw_plots(found, tmp_path)


def test_the_sign_flip_test_is_exact_for_few_differences() -> None:
    assert sign_flip_p_value(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    assert sign_flip_p_value(np.array([1.0, 0.0, -1.0])) == 1.0
    assert sign_flip_p_value(np.array([0.0])) == 1.0


@pytest.mark.parametrize("count", [9, 40])
def test_the_sign_flip_test_is_seldom_sure_of_what_is_chance(count: int) -> None:
    rng = np.random.default_rng(4)
    sure = sum(sign_flip_p_value(rng.exponential(1.0, count) - rng.exponential(1.0, count)) < 0.05 for _ in range(300))
    assert 3 <= sure <= 27
    assert sign_flip_p_value(rng.normal(1.0, 0.5, count)) < 0.01


def test_of_findings_looked_for_together_only_the_sure_stand() -> None:
    assert sure_of([0.04, 0.04], 0.05) == [False, False]
    assert sure_of([0.04, 0.02], 0.05) == [True, True]
    assert sure_of([0.001, 0.9, 0.03], 0.05) == [True, False, False]


def test_a_handful_of_questions_shows_nothing() -> None:
    few = verdicts(of((TARGET, 0.9, 1.0), (A1, 0.9, 0.4), (CONTROL, 0.1, 1.0), count=4))
    assert few[0].startswith("This run does not show A1 to be faster") or few[0].startswith("The target alone")
    assert few[1].startswith("Scoring has shown nothing on 4 questions")


def test_a_faster_way_that_may_be_right_much_less_often_is_not_called_better() -> None:
    assert verdicts(of((TARGET, 0.9, 1.0), (A1, 0.8, 0.4), count=20))[0].startswith("A1 at a rate of 0.2 is the faster")


@pytest.mark.parametrize(("count", "said"), [(20, "the faster choice"), (80, "the better choice")])
def test_a_few_questions_that_all_agree_do_not_show_that_others_would(count: int, said: str) -> None:
    first = verdicts(of((TARGET, 1.0, 1.0), (A1, 1.0, 0.4), count=count))[0]
    assert said in first and ("between -0.168 and +0.168" in first) == (count == 20)


def test_a_faster_way_that_is_likely_a_little_less_right_is_not_called_better() -> None:
    wrong = {TARGET: range(6), A1: range(6, 22)}
    made = [
        r.model_copy(update={"right": r.problem not in missed})
        for way, missed in wrong.items()
        for r in records(way, 500, right=1.0, seconds=1.0 if way is TARGET else 0.4)
    ]
    found = figures(made, [bare()], [TARGET, A1], shared=True)
    compared = compare(found.ways[A1.name], found.ways[TARGET.name], "vote", found.bootstrap)
    assert compared.p_value > 0.05 and -0.05 < compared.difference.low < compared.difference.high < 0
    first = verdicts(found)[0]
    assert "is the faster choice" in first and f"and {compared.difference.high:+.3f})" in first


def test_one_question_shows_nothing_of_a_barrier() -> None:
    lines = verdicts(of((A1, 0.8, 1.0), (SYNC, 0.8, 1.5), count=1))
    assert lines[0].endswith("which this run cannot tell from 1.")
    assert lines[1].startswith("On one question a share")


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 1.0])
def test_intervals_of_shares_hold_where_all_questions_agree(share: float) -> None:
    rng, bootstrap = np.random.default_rng(7), Bootstrap(40)
    found = [bootstrap.bounded((rng.random(40) < share).astype(float), 0, 1) for _ in range(300)]
    assert np.mean([e.low <= share <= e.high for e in found]) > 0.9
    assert all(e.low < e.value or e.value == 0 for e in found)
    assert all(0 <= e.low <= e.high <= 1 for e in found)


def test_ways_that_agree_on_all_questions_may_differ_on_others() -> None:
    found = of((TARGET, 1.0, 2.0), (A1, 1.0, 1.0), count=20)
    apart = compare(found.ways[A1.name], found.ways[TARGET.name], "vote", found.bootstrap).difference
    assert (apart.low, apart.value, apart.high) == pytest.approx((0.025 ** (1 / 20) - 1, 0, 1 - 0.025 ** (1 / 20)))
