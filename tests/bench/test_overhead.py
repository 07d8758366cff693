"""The benchmark of A1's own cost still runs: its models are ones that A1 takes, and both sides make the same calls."""

from tests.benchmarks.bench_overhead import TURNS, bare, whole
from tests.simulated import run_virtual


def test_a_call_on_models_that_only_count_verifies_every_step_of_both_sides() -> None:
    (steps, _), _ = run_virtual(whole(4, 1, early_stop="off", lookahead="off"))
    counted, _ = run_virtual(bare(4, 1))
    assert steps == counted == 4 * TURNS
