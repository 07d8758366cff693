import math
import random
import threading
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from a1agent.conformal.calibrators import make_calibrator
from a1agent.conformal.effects import MAX_OPEN, QuestionEffects
from a1agent.conformal.feedback import GLOBAL_GAIN, RATE_MARGIN, RATE_STEPS, GlobalTerm, RateBudget, rate_gap_bound
from a1agent.conformal.selectivity import selectivity
from a1agent.conformal.values import Decision, Observed

rates = st.floats(0, 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
any_score = st.one_of(finite, st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))


def step(score: float, question: str = "q", chain: int = 0, turn: int = 0) -> Observed:
    return Observed(score=score, question=question, chain=chain, turn=turn)


@settings(max_examples=60, deadline=None)
@given(
    rate=rates,
    coverage=st.sampled_from(["marginal", "conditional"]),
    stream=st.lists(st.tuples(finite, st.integers(0, 3), st.integers(0, 20), st.booleans()), min_size=1, max_size=300),
    repeats=st.integers(1, 4),
)
def test_the_rate_stays_within_its_bound_for_any_finite_scores(rate, coverage, stream, repeats):
    calibrator = make_calibrator("adaptive", rejection_rate=rate, coverage=coverage)
    rejections = 0
    for number, (score, question, turn, close) in enumerate(stream * repeats, start=1):
        rejections += calibrator.decide(step(score, f"q{question}", turn=turn)).rejected
        gap = abs(rejections / number - rate)
        assert gap <= rate_gap_bound(number) + 1e-9
        assert coverage == "conditional" or number < RATE_STEPS or gap <= RATE_MARGIN + 1e-9
        if close:
            calibrator.close_question(f"q{question}")


@settings(max_examples=60, deadline=None)
@given(stream=st.lists(st.tuples(any_score, rates, st.booleans()), min_size=1, max_size=400))
def test_the_global_term_keeps_its_bound_whatever_the_level_says_or_the_rate_asked_for(stream):
    term, gap, uncharged = GlobalTerm(), 0.0, 0
    for score, rate, wanted in stream:
        if math.isfinite(score):
            rejected = term.last_word(wanted, rate)
        else:
            uncharged += term.value < -1.0
            rejected = True
        term.move(rejected, rate)
        gap += rejected - rate
        assert -(1 + GLOBAL_GAIN) / GLOBAL_GAIN - 1e-9 <= gap <= (1 + GLOBAL_GAIN) / GLOBAL_GAIN + uncharged + 1e-9


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.4, 0.8, 1.0])
def test_an_adversary_who_answers_every_decision_cannot_break_the_bound(coverage, rate):
    calibrator = make_calibrator("adaptive", rejection_rate=rate, coverage=coverage)
    rejections, score = 0, 0.0
    for number in range(1, 3001):
        # Every score is stranger than all before until one is rejected, then blander than all: nothing is exchangeable.
        decision = calibrator.decide(step(score, f"q{number // 50}", turn=number % 9))
        rejections += decision.rejected
        score = -float(number) if decision.rejected else float(number)
        gap = abs(rejections / number - rate)
        assert gap <= rate_gap_bound(number)
        assert coverage == "conditional" or number < RATE_STEPS or gap <= RATE_MARGIN + 1e-9


def test_the_bound_is_needed_and_forces_decisions_when_the_other_terms_fail():
    term = GlobalTerm()
    forced = 0
    for _ in range(1000):
        rejected = term.last_word(False, 0.4)
        forced += rejected
        term.move(rejected, 0.4)
    assert abs(forced / 1000 - 0.4) <= rate_gap_bound(1000)


@settings(max_examples=60, deadline=None)
@given(rate=rates, wanted=st.lists(st.booleans(), min_size=1, max_size=200), repeats=st.integers(1, 4))
def test_a_budget_keeps_its_margin_whatever_the_level_says(rate, wanted, repeats):
    budget, gap = RateBudget(), 0.0
    for number, each in enumerate(wanted * repeats, start=1):
        rejected = budget.last_word(each, rate)
        assert rejected == each or abs(gap + each - rate) > RATE_MARGIN * max(number, RATE_STEPS) - 1e-9
        budget.move(rejected, rate)
        gap += rejected - rate
        assert abs(gap) <= RATE_MARGIN * max(number, RATE_STEPS) + 1e-9


@pytest.mark.parametrize("shape", ["strange", "plain", "in turns"])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6, 0.8])
def test_under_conditional_coverage_no_question_is_further_off_than_its_margin(rate, shape):
    calibrator = make_calibrator("adaptive", rejection_rate=rate, coverage="conditional")
    rng, steps = random.Random(0), 40
    for question in range(60):
        drift = {"strange": 3.0, "plain": -3.0, "in turns": 3.0 if question % 2 else -3.0}[shape]
        rejections = 0
        for number in range(1, steps + 1):
            score = rng.gauss(0, 1) + (drift if question >= 20 else 0.0)
            rejections += calibrator.decide(step(score, f"q{question}", number, number % 8)).rejected
            if number >= RATE_STEPS:
                assert abs(rejections / number - rate) <= RATE_MARGIN + 1e-9
        calibrator.close_question(f"q{question}")


def test_a_question_does_not_pay_for_long_for_what_others_decided():
    budget = RateBudget()
    for _ in range(5000):
        budget.move(True, 0.4)
    for _ in range(5000):
        budget.move(False, 0.4)
    for _ in range(5000):
        budget.move(True, 0.4)
    rejections = 0
    for _ in range(100):
        rejected = budget.last_word(True, 0.4)
        rejections += rejected
        budget.move(rejected, 0.4)
    assert rejections >= 40


def test_the_last_word_is_that_of_the_overall_bound():
    """Questions with takeovers to spare and questions that lack some leave the overall rate no room together."""
    calibrator = make_calibrator("adaptive", rejection_rate=0.4, coverage="conditional")
    gap, score = 0.0, 0.0
    for question in range(300):  # takeovers that no level decided: these questions are at the upper edge
        for number in range(16):
            calibrator.decide(step(math.nan, f"a{question}", number))
    for question in range(100):
        for number in range(16):
            score -= 1.0
            gap += calibrator.decide(step(score, f"b{question}", number)).rejected - 0.4
    for question in range(300):
        score -= 1.0
        gap += calibrator.decide(step(score, f"a{question}", 16)).rejected - 0.4
    assert gap >= -2 * (1 + GLOBAL_GAIN) / GLOBAL_GAIN


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
def test_one_call_may_follow_its_difficulty_or_is_kept_by_its_margin(coverage):
    calibrator = make_calibrator("adaptive", rejection_rate=0.3, coverage=coverage)
    rng, gaps = random.Random(0), []
    for question in range(100):
        hard = rng.gauss(0, 2)
        decided = [calibrator.decide(step(hard + rng.gauss(0, 1), f"q{question}", i, i % 8)) for i in range(48)]
        gaps.append(abs(sum(d.rejected for d in decided) / 48 - 0.3))
        calibrator.close_question(f"q{question}")
    assert (max(gaps) > RATE_MARGIN + 1e-9) == (coverage == "marginal")


def test_threads_that_share_a_calibrator_keep_the_bound_and_lose_no_score():
    calibrator = make_calibrator("adaptive", rejection_rate=0.4, coverage="conditional")
    decisions: list[Decision] = []
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        rng = random.Random(worker)
        start.wait()
        for turn in range(400):
            decisions.append(calibrator.decide(step(rng.gauss(worker, 1), f"q{worker % 3}", worker, turn % 12)))
            if turn % 100 == 99:
                calibrator.close_question(f"q{worker % 3}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decisions) == len(calibrator) == 3200
    assert abs(sum(d.rejected for d in decisions) / 3200 - 0.4) <= rate_gap_bound(3200)


@pytest.mark.parametrize("name", ["static", "online", "adaptive"])
@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_a_score_that_is_not_finite_is_a_takeover_and_never_stored(name, score, rate):
    kept: list[tuple[int, float]] = []
    calibrator = make_calibrator(name, rejection_rate=rate, on_score=lambda turn, s: kept.append((turn, s)))
    for chain in range(200):
        decision = calibrator.decide(step(score, chain=chain))
        assert decision.rejected
        assert decision.forced
        assert math.isnan(decision.p_value)
    assert len(calibrator) == 0
    assert kept == []


def test_after_a_model_failed_for_long_few_steps_are_accepted_unseen():
    calibrator = make_calibrator("adaptive", rejection_rate=0.4)
    for chain in range(5000):
        calibrator.decide(step(math.nan, chain=chain))
    rng = random.Random(0)
    later = [calibrator.decide(step(rng.gauss(0, 1), f"r{i // 30}", i)).rejected for i in range(2000)]
    assert abs(sum(later) / 2000 - 0.4) <= 2 * rate_gap_bound(2000)


@pytest.mark.parametrize("name", ["online", "adaptive"])
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4, 0.8])
def test_from_an_empty_set_the_rate_holds_from_the_first_step_on_average(name, rate):
    first = [make_calibrator(name, rejection_rate=rate, seed=seed).decide(step(1.0)).rejected for seed in range(2000)]
    assert abs(sum(first) / 2000 - rate) < 4 * math.sqrt(rate * (1 - rate) / 2000)


def test_rates_of_exactly_zero_and_one_are_kept_exactly():
    calibrator = make_calibrator("adaptive", rejection_rate=0.5)
    rng = random.Random(0)
    for chain in range(300):
        assert not calibrator.decide(step(rng.random(), chain=chain), 0.0).rejected
        assert calibrator.decide(step(rng.random(), chain=chain), 1.0).rejected
        calibrator.decide(step(rng.random(), chain=chain))


def test_a_decision_that_is_not_forced_follows_p_value_and_level():
    calibrator = make_calibrator("adaptive", rejection_rate=0.3, coverage="conditional")
    rng = random.Random(0)
    for number in range(2000):
        decision = calibrator.decide(step(rng.gauss(0, 1), f"q{number // 70}", number % 7, number % 10))
        assert decision.forced or decision.rejected == (decision.p_value <= decision.level)


def test_a_rate_per_call_overrides_the_calibrators_own():
    calibrator = make_calibrator("adaptive", rejection_rate=0.1)
    rng = random.Random(0)
    many = [calibrator.decide(step(rng.gauss(0, 1), f"q{i // 50}", i), 0.6).rejected for i in range(3000)]
    assert abs(sum(many) / 3000 - 0.6) <= rate_gap_bound(3000)


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
@pytest.mark.parametrize("rates", [(0.1, 0.6), (0.05, 0.8), (0.1, 0.3, 0.5, 0.7)])
def test_calls_that_ask_for_different_rates_do_not_pay_for_each_other(rates, coverage):
    calibrator = make_calibrator("adaptive", rejection_rate=0.3, coverage=coverage)
    rng = random.Random(0)
    rejected: dict[float, list[bool]] = {rate: [] for rate in rates}
    for question in range(160):
        hard, rate = rng.gauss(0, 2), rates[question % len(rates)]
        for i in range(48):
            observed = step(hard + rng.gauss(0, 1), f"q{question}", i % 8, i // 8)
            rejected[rate].append(calibrator.decide(observed, rate).rejected)
        calibrator.close_question(f"q{question}")
    for rate, decided in rejected.items():
        assert abs(sum(decided) / len(decided) - rate) <= 0.025


def test_the_same_question_asked_twice_does_not_mix():
    def second_level(first_key: str) -> float:
        calibrator = make_calibrator("adaptive", rejection_rate=0.4, coverage="conditional")
        for chain in range(60):
            calibrator.decide(step(5.0 + chain, first_key, chain))  # stranger and stranger
        calibrator.decide(step(1.0, "second", 0))
        return calibrator.decide(step(1.0, "second", 1)).level

    assert second_level("second") < second_level("first")


def test_a_closed_question_starts_afresh_and_closing_an_unknown_one_is_harmless():
    calibrator = make_calibrator("adaptive", rejection_rate=0.4, coverage="conditional")
    for chain in range(80):
        calibrator.decide(step(float(chain), "q", chain))
    before = calibrator.decide(step(0.0, "q", 99)).level
    calibrator.close_question("q")
    calibrator.close_question("never seen")
    fresh = calibrator.decide(step(0.0, "q", 100)).level
    other = calibrator.decide(step(0.0, "new", 0)).level
    assert abs(fresh - other) < abs(fresh - before)


def test_questions_that_are_never_closed_do_not_grow_without_bound():
    effects = QuestionEffects()
    for number in range(MAX_OPEN + 500):
        effects.learn(effects.arrive(f"q{number}"), 0.1)
    assert len(effects._questions) == MAX_OPEN


def test_where_questions_do_not_differ_nothing_is_predicted_and_where_they_do_it_is():
    rng = random.Random(0)
    alike, differing = QuestionEffects(), QuestionEffects()
    for number in range(200):
        shift = rng.gauss(0, 0.7)
        for _ in range(30):
            for effects, z in ((alike, rng.gauss(0, 1)), (differing, shift + rng.gauss(0, 0.7))):
                effects.learn(effects.arrive(f"q{number}"), z)
    assert alike.share < 0.03
    assert 0.35 < differing.share < 0.65


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
@pytest.mark.parametrize("shape", ["shift", "drift", "heavy tails", "ties"])
def test_windows_keep_the_rate_on_streams_that_shift_drift_or_tie(shape, coverage, rate):
    rng = random.Random(7)
    calibrator = make_calibrator("adaptive", rejection_rate=rate, coverage=coverage)
    rejected: list[bool] = []
    for question in range(100):
        effect = rng.gauss(0, 0.5) + {"shift": 3.0 * (question >= 50), "drift": question / 25}.get(shape, 0.0)
        for place in range(40):
            noise = rng.gauss(0, 1) / (rng.random() + 0.01 if shape == "heavy tails" else 1.0)
            score = round(effect + noise) if shape == "ties" else effect + noise
            rejected.append(calibrator.decide(step(float(score), f"q{question}", place % 8, place // 8)).rejected)
        calibrator.close_question(f"q{question}")
    gaps = [abs(sum(rejected[start : start + 200]) / 200 - rate) for start in range(0, 3800, 50)]
    assert sum(gaps) / len(gaps) <= 0.025
    assert max(gaps) <= 0.12


def test_thin_turn_buckets_borrow_all_scores_and_memory_is_bounded_per_bucket():
    calibrator = make_calibrator("adaptive", rejection_rate=0.3, window=100)
    numbers = count()
    sizes = [
        calibrator.decide(step(1.0 / (n + 1), chain=n, turn=0)).calibration_size
        for n in (next(numbers) for _ in range(300))
    ]
    assert sizes[-1] == 100
    assert calibrator.decide(step(0.5, turn=7)).calibration_size == 100
    for chain in range(60):
        calibrator.decide(step(0.5, chain=chain, turn=7))
    assert calibrator.decide(step(0.5, turn=7, chain=99)).calibration_size == 61
    assert len(calibrator) == 162


def test_initial_scores_are_used_and_those_that_are_not_finite_left_out():
    calibrator = make_calibrator("static", rejection_rate=0.3, initial=[(0, 1.0), (1, math.nan), (2, 3.0)])
    assert len(calibrator) == 2
    assert calibrator.decide(step(9.0)).p_value <= 1 / 3
    assert len(calibrator) == 2


def test_every_stored_score_is_told_once_in_order():
    told: list[tuple[int, float]] = []
    calibrator = make_calibrator("online", rejection_rate=0.3, on_score=lambda turn, score: told.append((turn, score)))
    for turn in range(5):
        calibrator.decide(step(turn / 2, turn=turn))
    assert told == [(turn, turn / 2) for turn in range(5)]


def test_the_same_seed_decides_the_same_and_another_does_not():
    def p_values(seed: int) -> list[float]:
        calibrator = make_calibrator("adaptive", rejection_rate=0.3, seed=seed)
        return [calibrator.decide(step(1.0, chain=chain)).p_value for chain in range(20)]

    assert p_values(1) == p_values(1)
    assert p_values(1) != p_values(2)


@pytest.mark.parametrize("name", ["static", "online", "adaptive"])
def test_a_million_scores_are_held_and_ranked(name):
    rng = random.Random(0)
    calibrator = make_calibrator(
        name, rejection_rate=0.3, window=1_000_000, initial=((0, rng.random()) for _ in range(1_000_000))
    )
    decision = calibrator.decide(step(0.75))
    assert decision.calibration_size == 1_000_000
    assert decision.p_value == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "adaptiv"}, "did you mean 'adaptive'"),
        ({"coverage": "conditonal"}, "did you mean 'conditional'"),
        ({"name": "online", "coverage": "conditional"}, "adaptive"),
        ({"rejection_rate": 1.5}, "rejection_rate"),
        ({"rejection_rate": math.nan}, "rejection_rate"),
        ({"window": 0}, "window"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    name = options.pop("name", "adaptive")
    with pytest.raises(ValueError, match=named):
        make_calibrator(name, **({"rejection_rate": 0.3} | options))


def test_a_bad_rate_or_turn_in_a_call_is_refused_before_anything_is_learned():
    calibrator = make_calibrator("adaptive", rejection_rate=0.3)
    with pytest.raises(ValueError, match="rejection_rate"):
        calibrator.decide(step(1.0), -0.1)
    with pytest.raises(ValueError, match="turn"):
        calibrator.decide(step(1.0, turn=-1))
    assert len(calibrator) == 0


def test_selectivity_tells_decisions_by_score_from_decisions_by_chance():
    rng = random.Random(0)
    scores = [(f"q{i // 50}", rng.random()) for i in range(5000)]
    assert selectivity((q, s, s > 0.6) for q, s in scores) == 1.0
    assert selectivity((q, s, s < 0.6) for q, s in scores) == 0.0
    assert selectivity((q, s, rng.random() < 0.4) for q, s in scores) == pytest.approx(0.5, abs=0.03)


def test_selectivity_counts_ties_one_half_weighs_by_pairs_and_leaves_out_nan():
    assert selectivity([("a", 1.0, True), ("a", 1.0, False)]) == 0.5
    items = [("a", 2.0, True), ("a", 1.0, False), ("b", 1.0, True), ("b", 2.0, False), ("b", 3.0, False)]
    assert selectivity(items) == pytest.approx(1 / 3)
    assert selectivity([*items, ("a", math.nan, True)]) == pytest.approx(1 / 3)
    assert selectivity([("a", math.inf, True), ("a", 1.0, False)]) == 1.0
    assert selectivity([("a", 1.0, True), ("b", 1.0, False)]) is None
    assert selectivity([]) is None
