"""Calibration across calls, agents and processes, as users of `A1` meet it."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from a1agent import A1, BackendClosed, CalibrationError, VoteClosed, calibration
from a1agent.calibration import Calibrations
from a1agent.conformal.store import CalibrationStore
from tests.doubles import SUM, sums_pair


def test_calibration_is_kept_from_one_agent_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "calibration.sqlite3"
    draft, target = sums_pair()
    with A1(draft, target, calibration=path, min_step_tokens=0, early_stop="off") as a1:
        first = a1.solve(SUM).stats
    with A1(draft, target, calibration=path, min_step_tokens=0, early_stop="off") as a1:
        second = a1.solve(SUM).stats
    assert second.calibration_size >= first.verifications


def test_calibration_is_on_by_default_and_can_be_turned_off(user_folders: Path) -> None:
    draft, target = sums_pair()
    with A1(draft, target, calibration=None, min_step_tokens=0) as a1:
        a1.solve(SUM)
    assert not list(user_folders.rglob("*.sqlite3"))
    with A1(draft, target, min_step_tokens=0) as a1:
        a1.solve(SUM)
    assert list(user_folders.rglob("*.sqlite3"))


def test_a_file_of_another_kind_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    # The model is not there either: the file is looked at before any model is loaded.
    with A1("llama-cpp:nowhere.gguf", calibration=path) as a1, pytest.raises(CalibrationError, match="problems"):
        a1.solve(SUM)
    assert [file.name for file in tmp_path.iterdir()] == ["problems.jsonl"]
    assert path.read_text().startswith('{"question"')


def test_calls_that_begin_together_open_the_store_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, together = list[CalibrationStore](), threading.Barrier(2)

    class Slow(CalibrationStore):
        def __init__(self, path: Path | None) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.2)  # for a second one, if there is any
            super().__init__(path)
            opened.append(self)

    monkeypatch.setattr(calibration, "CalibrationStore", Slow)
    found = Calibrations(tmp_path / "calibration.sqlite3")
    with ThreadPoolExecutor(2) as pool:
        stores = [call.result() for call in [pool.submit(found.open), pool.submit(found.open)]]
    found.close()
    assert stores == opened * 2


def test_an_agent_that_was_closed_opens_its_store_no_more(tmp_path: Path) -> None:
    path = tmp_path / "calibration.sqlite3"
    with A1(*sums_pair(), calibration=path) as a1:
        pass
    with pytest.raises(BackendClosed):
        a1.solve(SUM)
    assert not path.exists()


def test_scores_of_other_models_are_never_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "calibration.sqlite3"
    for accuracy in (0.5, 0.6):
        with A1(*sums_pair(accuracy), calibration=path, min_step_tokens=0, early_stop="off") as a1:
            assert a1.solve(SUM, chains=1).stats.calibration_size < 8
    with CalibrationStore(path) as store:
        assert len(store.summary()) == 2


def test_a_static_calibration_of_another_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.sqlite3"
    with A1(*sums_pair(0.5), calibration=path, min_step_tokens=0) as a1:
        a1.solve(SUM)
    with (
        A1(*sums_pair(0.6), calibration=path, calibrator="static", min_step_tokens=0) as a1,
        pytest.raises(CalibrationError),
    ):
        a1.solve(SUM)
    with A1(*sums_pair(0.5), calibration=path, calibrator="static", min_step_tokens=0) as a1:
        assert a1.solve(SUM).stats.calibration_size > 0


@pytest.mark.anyio
async def test_each_tenant_starts_where_the_operator_is_and_shifts_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "calibration.sqlite3"

    async def size(tenant: str) -> int:
        async with A1(*sums_pair(), calibration=path, min_step_tokens=0, early_stop="off", turns=4) as a1:
            events = [event async for event in a1.astream(SUM, tenant=tenant)]
        closed = events[-1]
        assert isinstance(closed, VoteClosed)
        return closed.result.stats.calibration_size

    operators = await size("")
    first = await size("ann")
    assert first > operators
    assert await size("ann") > first
    assert await size("bob") <= first + 2


def test_calls_with_seeds_of_their_own_learn_from_each_other() -> None:
    with A1(*sums_pair(), calibration=None, min_step_tokens=0, early_stop="off") as a1:
        sizes = [a1.solve(SUM, seed=seed).stats.calibration_size for seed in range(4)]
    assert sizes == sorted(set(sizes))
