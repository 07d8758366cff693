"""A run: every question through every way, in an order that changes, each answer on disk before the next is asked."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from a1agent.agent import A1
from a1agent.backends.base import Sampling
from a1agent.bench.bare import Workload, scoring_rate, writing_rate
from a1agent.bench.ledger import BareRates, Ledger, Record
from a1agent.bench.machine import EnergyMeter
from a1agent.bench.problems import DataSet, Problem
from a1agent.bench.timeline import Phase, Span, Timeline
from a1agent.bench.ways import Way, agent_of
from a1agent.config import Options
from a1agent.engine.equivalence import Equivalence
from a1agent.engine.extract import Answer
from a1agent.engine.vote import Candidate, Tally
from a1agent.errors import ContextOverflow, SolveError
from a1agent.events import VoteClosed
from a1agent.models import Loaded
from a1agent.prompts import ask_for_box
from a1agent.types import ChainResult, Question, Result

__all__ = ["Plan", "Run"]

_MEASURED = 5
"""How often in a run the bare rates are taken, evenly spread over its questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. `options.seed` is set, so that ways begin their chains alike.

    `calibration`: a store that every way reads and adds to; None: each begins with what ships, and keeps its own in
    the run's folder.
    """

    draft: str
    target: str
    options: Options
    data: DataSet
    ways: Sequence[Way]
    calibration: Path | None = None

    @property
    def identity(self) -> dict[str, object]:
        """What a run that resumes must have in common with the one it goes on with."""
        usual = asdict(Options())
        return {
            "draft": self.draft,
            "target": self.target,
            "data": self.data.name,
            "problems": self.data.identity,
            "ways": [way.name for way in self.ways],
            "options": {name: value for name, value in asdict(self.options).items() if value != usual[name]},
            "calibration": None if self.calibration is None else str(self.calibration),
        }


class Run:
    """Goes through a plan. `told` is called after each answer with how many there are and how many there will be."""

    def __init__(self, plan: Plan, ledger: Ledger, told: Callable[[int, int], None] = lambda _done, _all: None) -> None:
        self.plan = plan
        self.ledger = ledger
        self.agents = {way.name: self._agent(way) for way in plan.ways}
        self._told = told
        self._equivalence = Equivalence()
        self._meter = EnergyMeter()
        self._seen: Workload | None = None

    def _agent(self, way: Way) -> A1:
        plan = self.plan
        where = plan.calibration or self.ledger.folder / "calibration" / f"{way.name.replace(' ', '_')}.sqlite3"
        return agent_of(way, plan.draft, plan.target, plan.options, where)

    async def load(self) -> bool:
        """Loads the models; whether they take turns on one device. Raises what is wrong with the options of any way."""
        loaded = [(await agent.pair.load(), agent.options) for agent in self.agents.values()]
        for models, options in loaded:
            models.settle(options)
        return all(models.in_turn for models, _ in loaded)

    async def go(self) -> None:
        """Asks what has not been asked. Raises what answering raises, but for questions that no chain could answer."""
        problems = self.plan.data.problems
        total = len(problems) * len(self.plan.ways)
        for index, problem in enumerate(problems):
            for way in self._order(index):
                if (index, way.name) not in self.ledger.done:
                    await asyncio.to_thread(self.ledger.add, await self._answer(index, problem, way))
                    self._told(len(self.ledger.done), total)
            await self._take_rates(index, problem, len(problems))

    async def aclose(self) -> None:
        """Frees the models."""
        await self._equivalence.aclose()
        for agent in self.agents.values():
            await agent.aclose()

    def _order(self, index: int) -> list[Way]:
        """The ways in an order of the question's own: none is always first, with a cold cache, or next to another."""
        ways = list(self.plan.ways)
        random.Random(f"{self.plan.options.seed}:{index}").shuffle(ways)
        return ways

    async def _answer(self, index: int, problem: Problem, way: Way) -> Record:
        question = ask_for_box(Question.of(problem.question))
        record = Record(problem=index, way=way.name, expected=problem.answer, wall_s=0.0)
        joules, began = await asyncio.to_thread(self._meter.joules), time.perf_counter()
        line = Timeline(began, resamples=self.plan.options.takeover == "resample")
        result: Result | None = None
        try:
            async for event in self.agents[way.name].astream(question):
                line.add(event, time.perf_counter())
                result = event.result if isinstance(event, VoteClosed) else None
        except (SolveError, ContextOverflow) as error:
            wall = time.perf_counter() - began
            stats = error.stats if isinstance(error, SolveError) else None
            return record.model_copy(update={"wall_s": wall, "error": str(error), "stats": stats})
        assert result is not None  # the stream ends with its result, or raises
        wall, used = time.perf_counter() - began, await asyncio.to_thread(self._meter.joules)
        measured = {
            "wall_s": wall,
            "prompt_s": line.prompt_s,
            "spans": line.spans(),
            "stats": result.stats,
            "energy_j": None if used is None or joules is None else used - joules,
        }
        if way.mode == "a1" and way.main:
            self._seen = Workload(question, result)
        return record.model_copy(update=measured | await self._judged(problem, result))

    async def _judged(self, problem: Problem, result: Result) -> dict[str, object]:
        """The answers of a result, and whether they are right."""
        right = {chain.index: await self._right(problem, chain.answer) for chain in result.chains}
        majority = await self._majority(result.chains)
        return {
            "answer": result.answer,
            "majority": majority,
            "right": await self._right(problem, result.answer),
            "majority_right": await self._right(problem, majority),
            "any_right": any(right.values()),
            "chains_right": sum(right.values()) / len(right),
        }

    async def _right(self, problem: Problem, answer: str | None) -> bool:
        return answer is not None and await self._equivalence.same(answer, problem.answer)

    async def _majority(self, chains: Sequence[ChainResult]) -> str | None:
        tally = Tally(self._equivalence)
        for chain in (chain for chain in chains if chain.finished):
            stated = None if chain.answer is None else Answer(chain.answer, "boxed")
            await tally.add(Candidate(chain=chain.index, answer=stated, tokens=chain.token_count, scores=chain.scores))
        return tally.vote("majority", len(chains)).answer

    async def _take_rates(self, index: int, problem: Problem, count: int) -> None:
        """Measures the bare rates when it is time: the machine's mood during the run is what they are to share.

        A run that was killed before it did answers the question once more, for there to be something to measure on.
        """
        due = {math.ceil(count * part / _MEASURED) - 1 for part in range(1, _MEASURED + 1)}
        way = next((way for way in self.plan.ways if way.mode == "a1" and way.main), None)
        if way is None or index not in due or any(rates.problem == index for rates in self.ledger.rates):
            return
        if self._seen is None and self._was_answered(index, way):
            await self._answer(index, problem, way)
        if self._seen is None:
            return
        pair = await self.agents[way.name].pair.load()
        await asyncio.to_thread(self.ledger.add_rates, await self._bare(index, way.chains, pair, self._seen))

    def _was_answered(self, index: int, way: Way) -> bool:
        wanted = (index, way.name)
        return any((r.problem, r.way) == wanted and r.error is None for r in self.ledger.records)

    async def _bare(self, index: int, chains: int, pair: Loaded, seen: Workload) -> BareRates:
        options = self.plan.options
        sampling = Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            seed=index,
        )
        batches = {**self._batches("a1"), "alone": self._batches("target").get("draft", 0)}

        async def writing(which: str) -> float | None:
            return await writing_rate(pair.target, seen, batches[which], sampling) if batches.get(which) else None

        return BareRates(
            problem=index,
            chains=chains,
            draft=await writing_rate(pair.draft, seen, batches.get("draft", 1), sampling),
            score=await scoring_rate(pair.target, seen, batches.get("verify", 1)),
            takeover=await writing("takeover"),
            alone=await writing("alone"),
            batches=batches,
        )

    def _batches(self, mode: str) -> dict[str, int]:
        """Chains in each phase at once, on average over the answers so far of a mode."""
        names = {way.name for way in self.plan.ways if way.mode == mode and way.main}
        spans: dict[Phase, Span] = {}
        for record in self.ledger.records:
            if record.way in names:
                for phase, span in record.spans.items():
                    spans[phase] = spans.get(phase, Span()) + span
        return {phase: max(1, round(span.batch)) for phase, span in spans.items() if span.busy_s > 0}
