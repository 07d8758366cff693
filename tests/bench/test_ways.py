"""The ways of a run, from what a user writes."""

import pytest

from a1agent.bench.ways import MODES, chains_of, shares_of, ways_of
from a1agent.config import Options


@pytest.mark.parametrize("text", ["0.3,0.30,.3", "0.3 3e-1", "0.3,,0.3"])
def test_a_rate_in_two_spellings_is_one(text: str) -> None:
    assert shares_of(text, "rates") == [0.3]


def test_a_number_of_chains_in_two_spellings_is_one() -> None:
    assert chains_of("4,04 2") == [4, 2]


def test_no_two_ways_of_a_run_have_one_name() -> None:
    ways = ways_of(MODES, [0.1, 0.3], Options(chains=8), more_chains=[2, 8, 16], scored=[0.25, 1.0])
    assert len({way.name for way in ways}) == len(ways)
    assert {way.chains for way in ways} == {2, 8, 16}
