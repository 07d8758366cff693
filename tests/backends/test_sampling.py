"""Drawing tokens from logits."""

import math

import numpy as np
import pytest

from a1agent.backends.base import Sampling
from a1agent.backends.batching.sampling import Draw, LogSumExp, can_draw

LOGITS = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05], np.float32))


def drawn(logits: np.ndarray, count: int = 4000, **options: float) -> np.ndarray:
    draw = Draw(Sampling(seed=3, **options), len(logits))
    scratch = np.empty(len(logits), np.float32)
    return np.bincount([draw(logits, scratch) for _ in range(count)], minlength=len(logits)) / count


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    expected = np.exp(LOGITS / temperature)
    assert np.abs(drawn(LOGITS, temperature=temperature) - expected / expected.sum()).max() < 0.03


def test_a_large_vocabulary_is_drawn_from_evenly() -> None:
    logits = np.zeros(1000, np.float32)
    logits[::2] = -np.inf
    shares = drawn(logits, temperature=1.0)
    assert shares[::2].sum() == 0
    assert np.abs(np.add.reduceat(shares, range(0, 1000, 250)) - 0.25).max() < 0.03


def test_min_p_drops_what_is_unlikely_beside_the_most_likely() -> None:
    assert (drawn(LOGITS, temperature=5.0, min_p=0.25) > 0).tolist() == [True, True, True, False, False]


def test_the_last_token_and_the_only_token_can_be_drawn() -> None:
    logits = np.full(777, -np.inf, np.float32)
    logits[-1] = 3.0
    assert drawn(logits, 10, temperature=1.0)[-1] == 1


def test_logits_that_are_no_numbers_still_give_a_token() -> None:
    with np.errstate(invalid="ignore"):
        assert drawn(np.full(5, np.nan, np.float32), 3, temperature=1.0)[0] == 1


def test_equal_seeds_draw_equal_tokens() -> None:
    scratch = np.empty(5, np.float32)
    one, two = (Draw(Sampling(seed=2**70 + 1), 5) for _ in range(2))
    assert [one(LOGITS, scratch) for _ in range(50)] == [two(LOGITS, scratch) for _ in range(50)]


def test_what_needs_a_sorted_vocabulary_is_left_to_the_library() -> None:
    assert can_draw(Sampling(min_p=0.1))
    assert not any(can_draw(s) for s in (Sampling(top_k=5), Sampling(top_p=0.9), Sampling(temperature=0)))


@pytest.mark.parametrize("shift", [0, -46, -200, 80, 200, 3e38])
def test_log_sum_exp_is_that_of_doubles_wherever_logits_lie(shift: float) -> None:
    logits = (np.random.default_rng(0).normal(size=(4, 1000)) * [[1], [3], [10], [30]] + shift).astype(np.float32)
    logits[:, 5] = -np.inf
    exact = logits.astype(np.float64)
    top = exact.max(axis=1)
    wanted = np.log(np.exp(exact - top[:, None]).sum(axis=1)) + top
    assert LogSumExp(1000)(logits) == pytest.approx(wanted, rel=1e-6, abs=1e-5)


def test_log_sum_exp_of_what_is_no_number_is_none() -> None:
    logits = np.array([[0.0, np.nan], [0.0, 0.0]], np.float32)
    assert LogSumExp(2)(logits) == pytest.approx([np.nan, math.log(2)], nan_ok=True)


def test_rows_shared_out_to_threads_come_back_in_order() -> None:
    logits = np.random.default_rng(0).normal(size=(700, 4000)).astype(np.float32)
    total = LogSumExp(4000, threads=3)
    assert total(logits) == pytest.approx(np.logaddexp.reduce(logits.astype(np.float64), axis=1), rel=1e-6)
    assert len(total(logits[:1])) == 1 and len(total(logits[:0])) == 0
    total.close()
