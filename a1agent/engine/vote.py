"""Groups the chains' answers by equivalence as they arrive, and votes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from a1agent.config import VoteMethod
from a1agent.conformal.scores import mean_score, or_strangest
from a1agent.engine.canonical import canonical_key
from a1agent.engine.equivalence import Equivalence, may_equal
from a1agent.engine.extract import Answer

__all__ = ["Candidate", "Group", "Tally", "Vote"]

_DECAY = 0.5
"""What an answer that a chain held is worth one turn earlier, for the temporal vote."""
_UNJUDGED_KINDS = frozenset({"text", "json"})
"""Kinds that are compared by key only: prose and data are not algebra."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished chain as the vote sees it.

    `scores`: of the steps that stand in its text, under the target (nats per token, lower is better). `history`: the
    answers it held after earlier turns, oldest first.
    """

    chain: int
    answer: Answer | None
    tokens: int
    scores: tuple[float, ...] = ()
    history: tuple[tuple[int, Answer], ...] = ()

    @property
    def score(self) -> float:
        """Mean over its steps; NaN when none was scored."""
        return mean_score(self.scores)


@dataclass(frozen=True, slots=True)
class Group:
    """Chains that gave equal answers, best score first, and the first one's answer; `weight` is by the method."""

    answer: str
    chains: tuple[int, ...]
    weight: float


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome. `winner` is the chain to return whole, `groups` go from first to last.

    `confidence`: chains that agree with the winner, as a share of the started ones. `winner` is None when no chain
    states an answer, unless the method is `best`.
    """

    winner: int | None
    answer: str | None
    confidence: float
    groups: tuple[Group, ...]


class Tally:
    """Collects candidates in any order; the vote does not depend on the order.

    Groups are connected components of equivalence: an answer that equals two groups makes them one. `histories` also
    compares earlier answers by algebra, not only by key, as the temporal vote needs. After the `deadline` (the event
    loop's seconds) answers are compared by what is known at once, and nobody waits for algebra; `cut_short`: it was so.
    """

    def __init__(self, equivalence: Equivalence, *, histories: bool = False, deadline: float | None = None) -> None:
        self.cut_short = False
        self._equivalence = equivalence
        self._histories = histories
        self._deadline = deadline
        self._candidates: list[Candidate] = []
        self._spellings: dict[str, Answer] = {}  # the first answer seen under each key
        self._group_of: dict[str, int] = {}  # from key
        self._ended_with: Counter[str] = Counter()  # chains under each key

    async def add(self, candidate: Candidate) -> None:
        """Takes a chain in. Several may be added at once; one that is cancelled while it waits does not vote."""
        if candidate.answer is not None:
            await self._place(candidate.answer)
        for _, answer in candidate.history if self._histories else ():
            await self._place(answer)
        self._candidates.append(candidate)
        if candidate.answer is not None:
            self._ended_with[_key(candidate.answer)] += 1

    def contest(self) -> list[int]:
        """Chains of the answer that most give, and the most that one more answer could make another one have.

        It may equal several groups that were not found equal to each other: algebra proves less than is true, and a
        pair may outlast its deadline. So all that algebra may speak of count with the runner-up; answers that it has no
        say on, such as two numbers, are never joined.
        """
        standing = self._standing()
        if not standing:
            return []
        (leader, most), *_ = standing.most_common(1)
        joined = {self._group_of[key] for key in self._ended_with if self._may_join(key)} - {leader}
        apart = max((chains for group, chains in standing.items() if group not in {leader, *joined}), default=0)
        return [most, min(most, apart + sum(standing[group] for group in joined))]

    def leader(self, method: VoteMethod = "majority") -> Group | None:
        """The group that is first so far; None when no chain has stated an answer."""
        return next(iter(self._ranked(method, self._members())), None)

    def vote(self, method: VoteMethod, started: int) -> Vote:
        """The outcome over the candidates added so far, of `started` chains.

        The answer of highest weight wins; ties go to the lower mean score, then to the lowest chain. Weights:

        - `majority`: its chains.
        - `weighted`: the sum of exp((b - w) / s) over its chains, where w is the score of a chain's strangest step (a
          chain is as strong as its weakest link), b the lowest w of all chains, and s the standard deviation of the
          scores of all steps of all chains: free of the models' scale. A chain without a score counts as one of mean w.
          That the weakest stretch of a chain says more than its mean was found by Fu et al. 2025 (arXiv 2508.15260).
        - `shortest`: chains / ln(their mean tokens), Shortest Majority Vote (Zeng et al. 2025, arXiv 2502.12215, which
          divides by the log of the mean length); means below e count as e.
        - `temporal`: each chain spreads one vote over the answers it held, each turn earlier half as much. After the
          temporal vote over diffusion steps (Wang et al. 2025, arXiv 2508.09138), with chains for samples. Only an
          answer that some chain ends with can win.
        - `best`: the best chain's likelihood, relative to the best of all, which wins even without an answer.
        - `auto`: `weighted`, or `best` when no chain states an answer.
        """
        members = self._members()
        if method == "auto":
            method = "weighted" if members else "best"
        groups = self._ranked(method, members)
        if method == "best":
            winner = min(self._candidates, key=_rank, default=None)
        else:
            winner = next((c for c in self._candidates if groups and c.chain == groups[0].chains[0]), None)
        if winner is None:
            return Vote(None, None, 0.0, groups)
        agreeing = next((len(group.chains) for group in groups if winner.chain in group.chains), 1)
        answer = winner.answer.text if winner.answer is not None else None
        return Vote(winner.chain, answer, agreeing / max(started, agreeing), groups)

    async def _place(self, answer: Answer) -> None:
        """Finds the answer's group: compares it with each key of every group that it has not been found to equal."""
        key = _key(answer)
        compared: set[str] = set()
        equal: set[str] = set()
        while key not in self._group_of and (other := self._next(compared, equal)) is not None:
            compared.add(other)
            if await self._equal(answer, self._spellings[other]):
                equal.add(other)
        # No await from the last look at the groups to here, so nothing was added unseen.
        if key not in self._group_of:
            self._spellings[key] = answer
            self._group_of[key] = len(self._group_of)
            self._merge({self._group_of[k] for k in (key, *equal)})

    def _next(self, compared: set[str], equal: set[str]) -> str | None:
        done = {self._group_of[key] for key in equal}
        return next((k for k, group in self._group_of.items() if k not in compared and group not in done), None)

    async def _equal(self, answer: Answer, other: Answer) -> bool:
        if answer.kind in _UNJUDGED_KINDS or other.kind in _UNJUDGED_KINDS:
            return False  # their keys differ
        known = self._equivalence.known(answer.text, other.text)
        if known is not None:
            return known
        with contextlib.suppress(TimeoutError):
            if self._deadline is None or asyncio.get_running_loop().time() < self._deadline:
                async with asyncio.timeout_at(self._deadline):
                    return await self._equivalence.same(answer.text, other.text)
        self.cut_short = True
        return False

    def _standing(self) -> Counter[int]:
        """Chains of each group that has any."""
        standing: Counter[int] = Counter()
        for key, chains in self._ended_with.items():
            standing[self._group_of[key]] += chains
        return standing

    def _may_join(self, key: str) -> bool:
        return self._spellings[key].kind not in _UNJUDGED_KINDS and may_equal(key)

    def _merge(self, groups: set[int]) -> None:
        first = min(groups)
        for key, group in self._group_of.items():
            if group in groups:
                self._group_of[key] = first

    def _members(self) -> dict[int, list[Candidate]]:
        """The chains of each answer, best first."""
        members: dict[int, list[Candidate]] = {}
        for candidate in sorted(self._candidates, key=_rank):
            if candidate.answer is not None:
                members.setdefault(self._group_of[_key(candidate.answer)], []).append(candidate)
        return members

    def _ranked(self, method: VoteMethod, members: dict[int, list[Candidate]]) -> tuple[Group, ...]:
        weights = self._weights(method, members)

        def order(group: int) -> tuple[float, float, int]:
            return -weights[group], _mean_score(members[group]), min(c.chain for c in members[group])

        return tuple(_as_group(members[group], weights[group]) for group in sorted(members, key=order))

    def _weights(self, method: VoteMethod, members: dict[int, list[Candidate]]) -> dict[int, float]:
        if method == "temporal":
            return self._held(members)
        if method == "weighted":
            strength = _strengths(self._candidates)  # fsum: the order of arrival leaves no trace
            return {group: math.fsum(strength[c.chain] for c in chains) for group, chains in members.items()}
        if method == "best":
            likelihood = _relative({c.chain: c.score for c in self._candidates}, 1.0)
            return {group: max(likelihood[c.chain] for c in chains) for group, chains in members.items()}
        weigh = _brevity if method == "shortest" else len
        return {group: float(weigh(chains)) for group, chains in members.items()}

    def _held(self, members: dict[int, list[Candidate]]) -> dict[int, float]:
        votes: dict[int, list[float]] = {group: [] for group in members}
        for candidate in self._candidates:
            last = max((turn for turn, _ in candidate.history), default=0) + 1
            final = ((last, candidate.answer),) if candidate.answer is not None else ()
            shares = [(_key(answer), _DECAY ** (last - turn)) for turn, answer in (*candidate.history, *final)]
            whole = math.fsum(share for _, share in shares)
            for key, share in shares:
                if (group := self._group_of.get(key)) in votes:
                    votes[group].append(share / whole)
        return {group: math.fsum(shares) for group, shares in votes.items()}


def _key(answer: Answer) -> str:
    return canonical_key(answer.text) if answer.key is None else answer.key


def _rank(candidate: Candidate) -> tuple[float, int]:
    return or_strangest(candidate.score), candidate.chain


def _mean_score(chains: Sequence[Candidate]) -> float:
    return or_strangest(mean_score([c.score for c in chains]))


def _strengths(candidates: Sequence[Candidate]) -> dict[int, float]:
    """Of each chain, by its strangest step, the strongest one's being 1."""
    worst = {c.chain: max((s for s in c.scores if not math.isnan(s)), default=math.nan) for c in candidates}
    steps = [score for c in candidates for score in c.scores if math.isfinite(score)]
    middle = math.fsum(steps) / max(1, len(steps))
    spread = math.sqrt(math.fsum((score - middle) * (score - middle) for score in steps) / max(1, len(steps)))
    return _relative(worst, spread or 1.0)  # without spread all that are finite are equal


def _relative(scores: dict[int, float], scale: float) -> dict[int, float]:
    """exp((best - score) / scale) of each chain; NaN counts as the mean."""
    known = [score for score in scores.values() if math.isfinite(score)]
    if not known:
        return dict.fromkeys(scores, 1.0)
    best, mean = min(known), math.fsum(known) / len(known)
    return {chain: math.exp((best - (mean if math.isnan(s) else s)) / scale) for chain, s in scores.items()}


def _brevity(chains: Sequence[Candidate]) -> float:
    return len(chains) / math.log(max(math.e, sum(c.tokens for c in chains) / len(chains)))


def _as_group(chains: Sequence[Candidate], weight: float) -> Group:
    best = chains[0].answer
    return Group(answer=best.text if best is not None else "", chains=tuple(c.chain for c in chains), weight=weight)
