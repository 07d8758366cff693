import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent.conformal.calibrators import make_calibrator
from a1agent.conformal.pvalue import p_value
from a1agent.conformal.values import Observed
from a1agent.conformal.window import ScoreWindow

KS_LIMIT = 1.95  # sqrt(n) times the Kolmogorov distance exceeds it with probability 0.001


def ks_from_uniform(values: Sequence[float]) -> float:
    """sqrt(n) times the largest distance between the empirical distribution and the uniform one."""
    ordered = np.sort(np.asarray(values))
    n = len(ordered)
    above = np.arange(1, n + 1) / n - ordered
    below = ordered - np.arange(n) / n
    return float(np.sqrt(n) * max(above.max(), below.max()))


def online_p_values(name: str, scores: Sequence[float], turns: int = 1, window: int = 10_000) -> list[float]:
    calibrator = make_calibrator(name, rejection_rate=0.3, window=window, seed=5)
    return [
        calibrator.decide(
            Observed(score=score, question=f"q{i // 40}", chain=i % 8, turn=i // 8 % turns, attempt=i)
        ).p_value
        for i, score in enumerate(scores)
    ]


def test_the_formula_counts_larger_and_tied_scores():
    assert p_value(above=3, equal=2, size=9, u=0.5) == pytest.approx(0.45)
    assert p_value(above=1, equal=2, size=4) == pytest.approx(4 / 5)
    assert p_value(above=0, equal=0, size=0, u=0.25) == 0.25


@pytest.mark.parametrize(
    ("name", "turns", "window"), [("online", 1, 10_000), ("adaptive", 5, 10_000), ("online", 1, 300)]
)
def test_smoothed_p_values_are_uniform_under_exchangeability(name, turns, window):
    rng = random.Random(1)
    assert (
        ks_from_uniform(online_p_values(name, [rng.lognormvariate(0, 1) for _ in range(6000)], turns, window))
        < KS_LIMIT
    )


@pytest.mark.parametrize("values", [1, 2, 5])
def test_smoothed_p_values_are_uniform_with_heavy_ties(values):
    rng = random.Random(2)
    assert ks_from_uniform(online_p_values("online", [float(rng.randrange(values)) for _ in range(6000)])) < KS_LIMIT


def test_successive_smoothed_p_values_are_uncorrelated():
    rng = random.Random(3)
    p = np.array(online_p_values("online", [rng.gauss(0, 1) for _ in range(6000)]))
    assert abs(np.corrcoef(p[:-1], p[1:])[0, 1]) < 4 / np.sqrt(len(p))


@pytest.mark.parametrize("values", [3, 10_000_000])
def test_conservative_p_values_are_super_uniform(values):
    rng = random.Random(4)

    def drawn() -> float:
        score, others = rng.randrange(values), [rng.randrange(values) for _ in range(30)]
        return p_value(sum(other > score for other in others), others.count(score), len(others))

    p = [drawn() for _ in range(4000)]
    for level in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8):
        assert np.mean(np.array(p) <= level) <= level + 4 * np.sqrt(level * (1 - level) / len(p))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(-1, 10), st.integers(1, 20))
def test_a_window_ranks_as_counting_over_its_newest_scores_does(arrived, score, capacity):
    window = ScoreWindow(capacity)
    for value in arrived:
        window.add(float(value))
    kept = arrived[-capacity:]
    assert window.ranks(float(score)) == (sum(v > score for v in kept), kept.count(score))
    assert len(window) == len(kept)


@pytest.mark.parametrize("distinct", [7, 100_000])
def test_a_large_window_ranks_as_numpy_does_while_it_grows_and_evicts(distinct):
    rng = random.Random(6)
    scores = [float(rng.randrange(distinct)) for _ in range(30_000)]
    window = ScoreWindow(9000, scores[:5000])
    for place in range(5000, 30_000):
        window.add(scores[place])
        if place % 500 == 0:
            kept = np.array(scores[max(0, place - 8999) : place + 1])
            for score in (-1.0, scores[place], scores[place - 40], float(distinct)):
                assert window.ranks(score) == ((kept > score).sum(), (kept == score).sum())


def test_u_depends_on_the_identity_of_the_step_and_not_on_its_arrival():
    steps = [Observed(score=1.0, question=q, chain=c, turn=t) for q in "ab" for c in range(3) for t in range(2)]

    def decided(order: list[Observed]) -> dict[Observed, float]:
        calibrator = make_calibrator("static", rejection_rate=0.5, seed=1)
        return {step: calibrator.decide(step).p_value for step in order}

    shuffled = random.Random(0).sample(steps, len(steps))
    assert decided(steps) == decided(shuffled)
    assert len(set(decided(steps).values())) == len(steps)
