import math
import sys

import pytest

from a1agent.conformal.scores import SCORES, mean_nll, or_strangest, score_function, worst_nll


def test_mean_nll_is_the_log_of_the_perplexity():
    assert math.exp(mean_nll([math.log(0.5), math.log(0.125)])) == pytest.approx(4.0)


def test_the_worst_score_looks_at_the_least_likely_tokens_only():
    assert worst_nll([-0.1] * 8 + [-3.0, -5.0]) == pytest.approx(4.0)


def test_the_worst_score_rounds_up_to_at_least_one_token():
    assert worst_nll([-1.0, -9.0]) == 9.0
    assert worst_nll([-9.0] * 3 + [-0.0] * 12) == 9.0
    assert worst_nll([-9.0] * 3 + [-0.0] * 13) == pytest.approx(27 / 4)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_an_empty_step_scores_nan(score):
    assert math.isnan(score([]))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -sys.float_info.max])
def test_a_value_that_is_not_finite_carries_over(score, bad):
    assert not math.isfinite(score([-0.1, bad, -0.2, -0.3, -0.4, -0.5]))


def test_opposite_infinities_give_nan_and_no_error():
    assert math.isnan(mean_nll([math.inf, -math.inf]))


def test_an_unknown_score_is_refused_with_the_nearest_name():
    assert score_function("mean_nll") is mean_nll
    with pytest.raises(ValueError, match="did you mean 'mean_nll'"):
        score_function("mean-nll")


def test_what_is_not_finite_is_stranger_than_all_others():
    assert [or_strangest(score) for score in (None, math.nan, -math.inf, math.inf)] == [math.inf] * 4
    assert or_strangest(-2.0) == -2.0
