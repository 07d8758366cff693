"""The data path of A1: open chains -> draft -> verify -> decide -> take over -> vote. No chain waits for another."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from a1agent.backends.base import Sequence
from a1agent.conformal.scores import mean_score, or_strangest
from a1agent.engine import earlystop
from a1agent.engine.attempt import attempt, resample
from a1agent.engine.chain import Call, Chain, Marks
from a1agent.engine.draft import drop_ahead
from a1agent.engine.finish import finish
from a1agent.engine.takeover import take_over
from a1agent.engine.vote import Candidate, Tally, Vote
from a1agent.errors import ContextOverflow
from a1agent.events import ChainFinished, ChainStarted, StepAccepted
from a1agent.prompts import answer_cue
from a1agent.types import ChainEnd, ChainResult, Turn

__all__ = ["Outcome", "reason"]


@dataclass(slots=True)
class Outcome:
    """How the chains of a call ended, and how they voted."""

    chains: list[ChainResult]
    vote: Vote
    timed_out: bool
    causes: list[BaseException]


async def reason(call: Call, draft_root: Sequence, target_root: Sequence, tally: Tally) -> Outcome:
    """Runs all chains of a call to their ends, an early majority, or the time limit, and votes.

    The roots hold the prompt; one and the same for both is a model that judges itself.

    Cancelling it closes every chain's sequences before it returns.
    """
    run = _Run(call=call, draft_root=draft_root, target_root=target_root, tally=tally)
    try:
        await run.watch()
    finally:
        await finish(run.stop())
    vote = tally.vote(call.options.vote, started=call.options.chains)
    return Outcome(sorted(run.results, key=lambda r: r.index), vote, run.timed_out, run.causes)


@dataclass(slots=True)
class _Run:
    """The chains in flight. `opened`: chains that have begun. `best`: how the best that has ended ranks."""

    call: Call
    draft_root: Sequence
    target_root: Sequence
    tally: Tally
    tasks: dict[asyncio.Task[None], Chain] = field(default_factory=dict[asyncio.Task[None], Chain])
    ended: asyncio.Queue[asyncio.Task[None]] = field(default_factory=asyncio.Queue[asyncio.Task[None]])
    results: list[ChainResult] = field(default_factory=list[ChainResult])
    causes: list[BaseException] = field(default_factory=list[BaseException])
    timed_out: bool = False
    opened: int = 0
    best: tuple[bool, float] | None = None

    @property
    def left(self) -> int:
        """Chains that have not begun."""
        return self.call.options.chains - self.opened

    def _start(self) -> None:
        draft = self.draft_root.fork()
        target = draft if self.target_root is self.draft_root else self.target_root.fork()
        chain = Chain(index=self.opened, draft=draft, target=target)
        self.opened += 1
        self.call.emit(ChainStarted(chain=chain.index))
        task = asyncio.create_task(grow(self.call, chain), name=f"a1 chain {chain.index}")
        self.tasks[task] = chain
        task.add_done_callback(self.ended.put_nowait)

    async def watch(self) -> None:
        """Starts chains and takes them in as they finish, until all have, the majority stands, or time is up."""
        while (self.tasks or self.left) and not self._decided():
            for _ in range(earlystop.needed(self.call.options, self.tally.contest(), len(self.tasks), self.left)):
                self._start()
            try:
                async with asyncio.timeout_at(self.call.deadline):
                    done = [await self.ended.get()]
            except TimeoutError:
                self.timed_out = True
                return
            while not self.ended.empty():
                done.append(self.ended.get_nowait())
            for task in sorted(done, key=lambda t: self.tasks[t].index):
                await self._finish(task)
            if self.tally.cut_short:
                self.timed_out = True
                return

    async def _finish(self, task: asyncio.Task[None]) -> None:
        chain = self.tasks.pop(task)
        error = task.exception()
        if error is not None:
            chain.end = "failed"
            self.causes.append(error)
        await self._take_in(chain, str(error) if error is not None else None)

    async def _take_in(self, chain: Chain, error: str | None = None) -> None:
        """Settles a chain and counts its answer; cancelled meanwhile, it is settled and its answer not waited for."""
        result = await finish(self._settle(chain, error))
        if result.finished:
            await self.tally.add(
                Candidate(
                    chain=chain.index,
                    answer=chain.answer,
                    tokens=chain.tokens,
                    scores=result.scores,
                    history=tuple(chain.history),
                )
            )

    async def _settle(self, chain: Chain, error: str | None) -> ChainResult:
        if self.call.ranking is not None:
            self.call.ranking.leave(chain.index)
        try:
            await drop_ahead(self.call, chain)
        finally:
            await chain.close_sequences(resumed=self._leads(chain))
        result = chain.result(error)
        self.results.append(result)
        self.call.emit(ChainFinished(chain=chain.index, result=result))
        return result

    def _leads(self, chain: Chain) -> bool:
        """Whether a chain that has ended is the likeliest winner so far: the best, of those that state an answer."""
        if chain.end in ("cancelled", "failed"):
            return False
        rank = (chain.answer is None, or_strangest(mean_score(chain.scores)))
        leads = self.best is None or rank < self.best
        if leads:
            self.best = rank
        return leads

    def _decided(self) -> bool:
        """Whether the vote may be closed now."""
        options = self.call.options
        if not earlystop.closes(options, self.tally.contest(), len(self.tasks) + self.left):
            return False
        return not (options.vote == "auto" and self._contested())

    def _contested(self) -> bool:
        """Whether the majority so far is not what weighs most."""
        most, heaviest = self.tally.leader(), self.tally.leader("weighted")
        return most is not None and heaviest is not None and most.chains != heaviest.chains

    async def stop(self) -> None:
        """Ends what still runs: `cancelled` once the majority stands, `timeout` with the answer so far at the limit.

        A chain that came to its own end and was not taken in yet keeps it at the limit, and anyway if it has failed.
        """
        over = [task for task in self.tasks if self._keeps_end(task)]
        cut = {task: chain for task, chain in self.tasks.items() if task not in over}
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        for task in over:
            await self._finish(task)
        end: ChainEnd = "timeout" if self.timed_out else "cancelled"
        for chain in cut.values():
            if self.timed_out:
                chain.close(self.call, end)
            chain.end = end
            await self._take_in(chain)

    def _keeps_end(self, task: asyncio.Task[None]) -> bool:
        return task.done() and not task.cancelled() and (self.timed_out or task.exception() is not None)


async def grow(call: Call, chain: Chain) -> None:
    """Turn by turn until the chain states an answer, ends its message, or runs out; then it is made to state one.

    One whose model ends its turn inside a thought has said nothing yet: the thought is closed, and the message follows.
    So it does after one that tells of a call.
    """
    end: ChainEnd = "turns"
    await chain.open_thought()
    for turn in range(call.options.turns):
        room = chain.room(call)
        if room < 1 or not await _fits(call, chain, turn, room):
            end = "tokens"
            break
        if chain.ended and chain.goes_on:
            await chain.say(call.closing)
        elif chain.ended or chain.states_answer(call):
            end = "ended" if chain.ended else "answered"
            break
        if call.options.vote == "temporal":
            chain.remember(call, turn)
    if end in ("turns", "tokens") or chain.lacks_answer(call):
        try:
            await state_answer(call, chain)
        except ContextOverflow:
            if not chain.turns:  # there was no room for anything
                raise
    chain.close(call, end)


async def _fits(call: Call, chain: Chain, turn: int, room: int) -> bool:
    """Takes a turn; False where its step, cut finer than all before it, overran a context: the chain is as before."""
    marks = chain.mark()
    try:
        await take_turn(call, chain, turn, room, marks)
    except ContextOverflow:
        if not call.can_rewind:
            raise
        await drop_ahead(call, chain)
        chain.rewind(marks)
        return False
    return True


async def take_turn(call: Call, chain: Chain, turn: int, room: int, marks: Marks) -> None:
    """One round: the draft writes, the target scores, the calibrator decides, the step stays or is taken over.

    A step has at most `room` tokens. Raises `ContextOverflow`: text and turns are then as at the `marks`.
    """
    limit = min(call.statement.tokens if call.stating else call.options.step_tokens, room)
    tried, taken = await attempt(call, chain, turn, 0, limit), None
    if tried.rejected and call.options.takeover == "resample":
        await drop_ahead(call, chain)
        tried = await resample(call, chain, turn, tried, marks, limit)
    elif tried.rejected:
        taken = await take_over(call, chain, turn, tried, marks, room)
    if taken is None:
        chain.grow(tried.drafted, tried.step, tried.score)
        call.emit(StepAccepted(chain=chain.index, turn=turn, step=tried.step, verified=tried.verdict is not None))
        chain.turns.append(Turn(index=turn, drafted=tried.step, verdict=tried.verdict))
    else:
        chain.turns.append(
            Turn(index=turn, drafted=tried.step, verdict=tried.verdict, taken_over=taken.step, kept=taken.kept)
        )


async def state_answer(call: Call, chain: Chain) -> None:
    """Makes a chain that ran out of turns or tokens, or ended without an answer, close its thinking and state one.

    The statement is a step like any other: drafted, scored, and taken over where it is strange.
    """
    statement = call.statement
    await drop_ahead(call, chain)
    cue = answer_cue(chain.text, statement.opening)
    if cue:
        await chain.say(cue)
    await take_turn(call.for_statement(), chain, len(chain.turns), statement.tokens, chain.mark())
