"""A run: every question in every way, once, in orders that change; what is bare is measured on the way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from a1agent.agent import A1
from a1agent.backends.base import Backend, Sampling
from a1agent.bench import run as bench_run
from a1agent.bench.bare import Workload, scoring_rate, writing_rate
from a1agent.bench.figures import figures
from a1agent.bench.ledger import Ledger, Record
from a1agent.bench.plots import draw_plots
from a1agent.bench.problems import DataSet, Problem, named
from a1agent.bench.run import Plan, Run
from a1agent.bench.ways import MODES, Way, agent_of, ways_of
from a1agent.config import Options
from a1agent.errors import CannotScore, InvalidOption
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.bench.made import DRAFT, TARGET

SUMS = tuple(Problem(f"{i} + 5 + 6 + 7 + 8 + 9", str(i + 35)) for i in range(1, 7))

OPTIONS = Options(chains=4, seed=1, early_stop="off")


def plan(problems: tuple[Problem, ...] = SUMS, **changed: Any) -> Plan:
    values: dict[str, Any] = {
        "draft": DRAFT,
        "target": TARGET,
        "options": OPTIONS,
        "data": DataSet(name="sums", identity="made by hand", problems=problems),
        "ways": ways_of(MODES, [0.2, 0.5], OPTIONS, more_chains=[2]),
    }
    return Plan(**(values | changed))


def go(plan: Plan, folder: Path, *, resume: bool = False) -> tuple[Ledger, list[int]]:
    told: list[int] = []
    ledger = Ledger(folder, plan.identity, resume=resume)
    run = Run(plan, ledger, lambda done, _: told.append(done))

    async def all_of_it() -> None:
        await run.load()
        try:
            await run.go()
        finally:
            await run.aclose()

    asyncio.run(all_of_it())
    return ledger, told


def test_every_question_is_answered_in_every_way(tmp_path: Path) -> None:
    ledger, told = go(plan(), tmp_path / "run")
    ways = plan().ways
    assert len(ways) == 2 + 3 * 2 + 3
    assert {(r.problem, r.way) for r in ledger.records} == {(i, w.name) for i in range(6) for w in ways}
    assert told == list(range(1, 6 * len(ways) + 1))
    orders = [[r.way for r in ledger.records if r.problem == i] for i in range(6)]
    assert len({tuple(order) for order in orders}) == 6


def test_answers_are_judged_by_each_vote_and_chain_by_chain(tmp_path: Path) -> None:
    ledger, _ = go(plan(), tmp_path / "run")
    alone = [r for r in ledger.records if r.way == "target"]
    assert all(r.right and r.majority_right and r.chains_right == 1 for r in alone)
    draft = [r for r in ledger.records if r.way == "draft"]
    assert 0 < sum(r.chains_right for r in draft) < 3 and all(r.any_right == (r.chains_right > 0) for r in draft)
    helped = [r for r in ledger.records if r.way == "a1 0.5"]
    assert sum(r.chains_right for r in helped) > sum(r.chains_right for r in draft)
    assert {r.stats.chains_started for r in ledger.records if r.way.endswith("2 chains") and r.stats} == {2}


def test_a_run_that_resumes_asks_only_what_is_missing(tmp_path: Path) -> None:
    whole, _ = go(plan(), tmp_path / "run")
    results = tmp_path / "run" / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:20]) + lines[20][:30])  # killed while it wrote
    ledger, told = go(plan(), tmp_path / "run", resume=True)
    assert told == list(range(21, len(lines) + 1))
    assert [(r.problem, r.way) for r in ledger.records] == [(r.problem, r.way) for r in whole.records]
    assert results.read_bytes().splitlines(keepends=True)[:20] == lines[:20]


def test_a_run_that_was_killed_before_bare_rates_were_taken_takes_them_when_it_resumes(tmp_path: Path) -> None:
    chosen = plan(SUMS[:2], ways=ways_of(["target", "a1"], [0.3], OPTIONS))
    go(chosen, tmp_path / "run")
    answers = (tmp_path / "run" / "results.jsonl").read_bytes()
    (tmp_path / "run" / "rates.jsonl").unlink()
    ledger, told = go(chosen, tmp_path / "run", resume=True)
    assert told == [] and [rates.problem for rates in ledger.rates] == [0, 1]
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == answers


def test_more_questions_may_be_asked_of_a_run_later(tmp_path: Path) -> None:
    go(plan(SUMS[:2]), tmp_path / "run")
    ledger, told = go(plan(), tmp_path / "run", resume=True)
    assert len(told) == 4 * len(plan().ways) and len(ledger.records) == 6 * len(plan().ways)


def test_a_question_that_no_chain_can_answer_is_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    problems = (SUMS[0], Problem("1 + " * 300 + "1", "301"), SUMS[1])
    short = plan(problems, draft=f"{DRAFT}&context_length=600", ways=ways_of(["target", "a1"], [0.3], OPTIONS))
    ledger, _ = go(short, tmp_path / "run")
    failed = [r for r in ledger.records if r.error is not None]
    assert [(r.problem, r.way, r.right) for r in failed] == [(1, "a1 0.3", False)]
    assert len(ledger.records) == 6


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["embedded:draft", "scripted:sums"])
async def test_a_model_alone_reads_nothing_that_it_wrote(address: str) -> None:
    async with agent_of(Way("target", 0.0, 3), address, address, Options(seed=2), None) as agent:
        result = await agent.asolve(ask_for_box(Question.of("What is 4 + 5?")))
    assert result.stats.scored_tokens == 0 and result.stats.rejections == 0
    assert result.stats.drafted_tokens > 0


def test_a_draft_that_can_score_nothing_is_measured_alone(tmp_path: Path) -> None:
    chosen = plan(SUMS[:2], draft=f"{DRAFT}&can_score=0", ways=ways_of(["draft", "target", "a1"], [0.3], OPTIONS))
    ledger, _ = go(chosen, tmp_path / "run")
    assert [record.error for record in ledger.records] == [None] * 6
    alone = [r.stats for r in ledger.records if r.way == "draft" and r.stats]
    assert all(s.drafted_tokens > 0 and s.verifications == s.scored_tokens == 0 for s in alone)


@pytest.mark.anyio
async def test_what_can_score_nothing_is_its_own_target_only_while_nothing_is_to_be_scored() -> None:
    with pytest.raises(CannotScore):
        A1("scripted:sums?can_score=0", "same")
    async with A1("scripted:sums?can_score=0", "same", verify_rate=0.0, rejection_rate=0.0, calibration=None) as alone:
        assert (await alone.asolve("3 + 4 + 5")).stats.verifications == 0
        with pytest.raises(CannotScore):
            await alone.asolve("3 + 4 + 5", verify_rate=0.5)


def test_chains_that_wait_for_each_other_do_not_look_ahead() -> None:
    pair, options = ("scripted:sums", "scripted:sums"), Options(lookahead="on")
    agents = [agent_of(Way(mode, 0.3, 2), *pair, options, None) for mode in MODES]
    assert [agent.options.lookahead for agent in agents] == ["auto", "auto", "on", "on", "off"]


def test_a_model_alone_need_not_tell_what_would_be_kept_of_a_rejected_step() -> None:
    options = Options(takeover="rollback")
    agents = [agent_of(Way(mode, 0.3, 2), "scripted:sums", "scripted:sums", options, None) for mode in MODES]
    assert [agent.options.takeover for agent in agents] == ["rewrite", "rewrite", *["rollback"] * 3]


def test_a_model_that_is_its_own_target_is_measured_too(tmp_path: Path) -> None:
    options = OPTIONS.replace(takeover="resample")
    ways = ways_of(["draft", "target", "a1", "a1-random"], [0.3], options)
    ledger, _ = go(plan(SUMS[:2], target="same", options=options, ways=ways), tmp_path / "run")
    assert [record.error for record in ledger.records] == [None] * 2 * len(ways)


def test_a_way_that_cannot_be_gone_is_refused_before_any_question_is_asked(tmp_path: Path) -> None:
    ways = ways_of(["draft", "a1"], [0.3], OPTIONS, scored=[0.5])
    chosen = plan(draft="embedded:draft", target="same", ways=ways)
    run = Run(chosen, Ledger(tmp_path / "run", chosen.identity, resume=False))

    async def load() -> None:
        try:
            await run.load()
        finally:
            await run.aclose()

    with pytest.raises(InvalidOption, match=r"verify_rate is 0\.5"):
        asyncio.run(load())


@pytest.mark.parametrize("threads", [1, 64])
def test_models_take_turns_where_together_they_want_more_than_the_processor_has(tmp_path: Path, threads: int) -> None:
    draft, target = (f"embedded:{name}?n_threads={threads}" for name in ("draft", "target"))
    chosen = plan(draft=draft, target=target, ways=ways_of(["a1"], [0.3], OPTIONS))
    run = Run(chosen, Ledger(tmp_path / "run", chosen.identity, resume=False))

    async def takes_turns() -> tuple[bool, bool]:
        try:
            shared = await run.load()
            pair = await run.agents["a1 0.3"].pair.load()
            return shared, pair.draft.engine.thread == pair.target.engine.thread
        finally:
            await run.aclose()

    shared, same = asyncio.run(takes_turns())
    assert shared == same
    assert shared or threads == 1


def test_the_embedded_pair_gives_all_figures_and_plots(tmp_path: Path) -> None:
    chosen = plan(
        draft="embedded:draft",
        target="embedded:target",
        data=named("embedded", limit=3, seed=7),
        ways=ways_of(MODES, [0.3], OPTIONS, more_chains=[2], scored=[0.5]),
    )
    ledger, _ = go(chosen, tmp_path / "run")
    assert len(ledger.rates) == 3 and all(r.draft > 0 and r.score > 0 and r.alone for r in ledger.rates)
    found = figures(ledger.records, ledger.rates, chosen.ways, shared=True)
    a1, target = found.ways["a1 0.3"], found.ways["target"]
    assert a1.ceiling is not None and a1.ceiling > 0 and a1.speedup is not None
    assert a1.account is not None and a1.account.prompt > 0 and a1.account.rest >= 0
    assert target.tokens.scored == 0 and target.tokens.drafted == 0 and target.tokens.target > 0
    assert found.ways["a1-sync 0.3"].waiting_s > 0
    assert 0 < found.ways["a1 0.3, 0.5 scored"].tokens.scored < 0.8 * a1.tokens.scored
    (tmp_path / "plots").mkdir()
    drawn = draw_plots(found, tmp_path / "plots")
    assert set(drawn) == {"accuracy", "speedup", "rates", "p_values", "tokens", "waiting", "chains", "screening"}
    for name in drawn:
        assert (tmp_path / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "plots" / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    alone = plan(ways=ways_of(["draft"], [], OPTIONS))
    ledger, _ = go(alone, tmp_path / "run")
    assert ledger.rates == []
    found = figures(ledger.records, ledger.rates, alone.ways, shared=True)
    assert set(draw_plots(found, tmp_path)) == {"accuracy", "tokens"}


@pytest.mark.anyio
async def test_bare_rates_count_every_token_and_leave_nothing_open() -> None:
    async with agent_of(Way("a1", 0.3, 4), "embedded:draft", "embedded:target", Options(seed=1), None) as agent:
        question = ask_for_box(Question.of("What is 12 + 30?"))
        work = Workload(question, await agent.asolve(question))
        pair = await agent.pair.load()
        before = pair.target.counters
        assert await scoring_rate(pair.target, work, 3) > 0
        assert await writing_rate(pair.target, work, 3, Sampling(seed=1)) > 0
        after = pair.target.counters
    assert after.sequences_alive == before.sequences_alive == 0
    assert after.decoded_tokens > before.decoded_tokens + 2 * 3 * 64


def test_bare_rates_are_of_tokens_drawn_as_the_run_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Sampling] = []

    async def rate(_backend: Backend, _work: Workload, _batch: int, sampling: Sampling) -> float:
        drawn.append(sampling)
        return 1.0

    monkeypatch.setattr(bench_run, "writing_rate", rate)
    options = OPTIONS.replace(temperature=0.6, top_k=20, top_p=0.9, min_p=0.05)
    go(plan(SUMS[:1], options=options, ways=ways_of(["a1"], [0.3], options)), tmp_path / "run")
    assert {(s.temperature, s.top_k, s.top_p, s.min_p) for s in drawn} == {(0.6, 20, 0.9, 0.05)}


def test_records_survive_the_disk() -> None:
    record = Record(problem=1, way="a1 0.3", expected="\u221a2", wall_s=0.25)
    assert Record.model_validate_json(record.model_dump_json()) == record
