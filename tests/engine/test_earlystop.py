"""A majority is called early only when nothing, or probably nothing, can change it."""

from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent.config import Options
from a1agent.engine.earlystop import beta_decided, decided, needed, probability_of_staying_ahead

COUNTS = st.lists(st.integers(0, 6), max_size=3)


def _stands(counts: list[int], remaining: int) -> bool:
    """By brute force: one answer is strictly ahead after every completion, new answers and none at all among them."""
    if remaining == 0:
        return True
    leaders: set[int | None] = set()
    for answers in product([None, *range(len(counts) + remaining)], repeat=remaining):
        final = [*counts, *[0] * remaining]
        for answer in answers:
            if answer is not None:
                final[answer] += 1
        best = max(final)
        leaders.add(final.index(best) if best and final.count(best) == 1 else None)
    return len(leaders) == 1 and None not in leaders


@given(COUNTS, st.integers(0, 3))
def test_decided_agrees_with_every_completion(counts: list[int], remaining: int) -> None:
    assert decided(counts, remaining) == _stands(counts, remaining)


def test_possible_tie_is_not_decided_because_scores_would_break_it() -> None:
    assert not decided([5, 3], 2)
    assert decided([6, 3], 2)


def test_nothing_is_decided_before_the_first_answer() -> None:
    assert not decided([], 3)
    assert not beta_decided([], 3, 0.9)


@pytest.mark.parametrize("counts", [[], [2, 2], [1]])
def test_everything_is_decided_after_the_last_answer(counts: list[int]) -> None:
    assert decided(counts, 0)
    assert beta_decided(counts, 0, 1.0)


@given(COUNTS, st.integers(0, 20), st.floats(0, 1))
def test_what_is_decided_is_beta_decided(counts: list[int], remaining: int, probability: float) -> None:
    if decided(counts, remaining):
        assert beta_decided(counts, remaining, probability)
        staying = probability_of_staying_ahead(*sorted([0, 0, *counts])[:-3:-1], remaining)
        assert remaining == 0 or staying == pytest.approx(1)


def test_one_more_answer_follows_the_rule_of_succession() -> None:
    # Leader 2, other 1: the next answer is the leader's with probability 3/5; otherwise it is a tie.
    assert probability_of_staying_ahead(2, 1, 1) == pytest.approx(3 / 5)


@given(st.integers(0, 12), st.integers(0, 12))
def test_many_more_answers_approach_the_beta_posterior(leader: int, runner_up: int) -> None:
    n = leader + runner_up + 1
    tosses = [1]
    for _ in range(n):
        tosses = [a + b for a, b in zip([0, *tosses], [*tosses, 0], strict=True)]
    # P(p > 1/2) of Beta(a, b) with whole a, b is the chance of fewer than a heads in a + b - 1 tosses.
    limit = sum(tosses[: leader + 1]) / 2**n
    assert probability_of_staying_ahead(leader, runner_up, 4001) == pytest.approx(limit, abs=5e-3)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 40))
def test_the_chance_is_that_of_the_beta_binomial_distribution(leader: int, runner_up: int, remaining: int) -> None:
    a, b = leader + 1, runner_up + 1
    ways = [comb(a + x - 1, x) * comb(b + remaining - x - 1, remaining - x) for x in range(remaining + 1)]
    ahead = sum(w for x, w in enumerate(ways) if leader + x > runner_up + remaining - x)
    assert probability_of_staying_ahead(leader, runner_up, remaining) == pytest.approx(ahead / sum(ways), abs=1e-9)


@given(st.integers(0, 10), st.integers(0, 10), st.integers(1, 20))
def test_more_votes_for_the_leader_make_it_safer(leader: int, runner_up: int, remaining: int) -> None:
    chance = probability_of_staying_ahead(leader, runner_up, remaining)
    assert 0 <= chance <= 1
    assert chance <= probability_of_staying_ahead(leader + 1, runner_up, remaining) + 1e-12


def test_beta_stops_earlier_than_exact() -> None:
    assert not decided([6, 0], 10)
    assert beta_decided([6, 0], 10, 0.95)
    assert not beta_decided([6, 5], 10, 0.95)


@pytest.mark.parametrize(
    ("counts", "running", "left", "more"),
    [
        ([], 0, 8, 5),  # five that agree are a majority of eight
        ([4], 1, 3, 0),  # the fifth is on its way
        ([4, 1], 0, 3, 1),
        ([2, 2], 0, 4, 3),
        ([3, 3], 1, 1, 1),  # nothing could close it
        ([], 0, 1, 1),
    ],
)
def test_chains_begin_when_the_vote_cannot_close_without_them(
    counts: list[int], running: int, left: int, more: int
) -> None:
    options = Options(start="needed", early_stop="exact")
    assert needed(options, counts, running, left) == more
    assert needed(options.replace(start="all"), counts, running, left) == left
    assert needed(options.replace(early_stop="off"), counts, running, left) == left


def test_a_vote_that_may_close_on_a_likely_majority_needs_fewer_chains() -> None:
    assert needed(Options(start="needed", early_stop="beta"), [], 0, 8) < 5


@given(COUNTS, st.integers(0, 9), st.integers(0, 9), st.sampled_from(["exact", "beta"]))
def test_somebody_is_always_on_the_way_while_chains_are_left(
    counts: list[int], running: int, left: int, rule: str
) -> None:
    more = needed(Options(start="needed", early_stop=rule), counts, running, left)
    assert 0 <= more <= left and (left == 0 or running + more > 0)
