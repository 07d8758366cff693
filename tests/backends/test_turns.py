"""Which of the models of a device runs next: those where enough sequences have come together."""

from dataclasses import dataclass

import pytest

from a1agent.backends.batching.worker import due
from tests.benchmarks.bench_scheduling import LENGTHS, saved


@dataclass(eq=False)
class Model:
    gathered: float
    forward_s: float = 1.0
    passed_over: int = 0


def test_a_model_alone_always_runs() -> None:
    few = Model(0.1)
    assert due([few]) == [few]
    assert due([]) == []


def test_of_two_models_that_chains_alternate_between_one_runs() -> None:
    for share in range(1, 16):
        draft, target = Model(share / 16), Model(1 - share / 16, forward_s=10.0)
        assert len(due([draft, target])) == 1


def test_a_dear_forward_waits_for_more_company_than_a_cheap_one() -> None:
    draft, target = Model(0.4), Model(0.6)
    assert due([draft, target]) == [target]
    target.forward_s = 16.0
    assert due([draft, target]) == [draft]


def test_models_that_have_nothing_to_do_with_each_other_take_turns() -> None:
    one, other = Model(1.0, forward_s=0.001), Model(1.0, forward_s=10.0)
    assert due([one, other]) == [one, other]


def test_when_none_has_gathered_enough_the_nearest_runs() -> None:
    one, other = Model(0.1), Model(0.2)
    assert due([one, other]) == [other]


def test_nobody_is_passed_over_forever() -> None:
    idle, other = Model(0.01), Model(0.9)
    for _ in range(1000):
        if idle in due([idle, other]):
            break
        idle.passed_over += 1
    assert 100 < idle.passed_over < 1000


def test_a_model_that_has_never_run_does_not_wait() -> None:
    new, old = Model(0.1, forward_s=0.0), Model(0.2, forward_s=5.0)
    assert new in due([new, old])


@pytest.mark.parametrize("name", LENGTHS)
def test_waiting_for_company_saves_forwards_where_the_target_is_dear(name: str) -> None:
    for chains in (8, 16):
        assert saved(chains, 10, LENGTHS[name]) < 0.85
        assert saved(chains, 1, LENGTHS[name]) < 1.1
