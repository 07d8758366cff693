"""Answers are grouped as they arrive, and every method picks one chain to return whole."""

import asyncio
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a1agent.config import VoteMethod
from a1agent.engine.canonical import canonical_key, spoken
from a1agent.engine.earlystop import decided
from a1agent.engine.equivalence import Equivalence
from a1agent.engine.extract import Answer
from a1agent.engine.vote import Candidate, Tally, Vote
from tests.doubles import LIMIT_S, Clock

pytestmark = pytest.mark.anyio


class FakeJudge:
    """Knows which pairs are equal, and remembers what it was asked; can be held up."""

    def __init__(self, *equal: tuple[str, str]) -> None:
        self.pairs = {frozenset(pair) for pair in equal}
        self.asked: list[frozenset[str]] = []
        self.called = asyncio.Semaphore(0)
        self.open = asyncio.Event()
        self.open.set()

    async def equal(self, a: str, b: str) -> bool | None:
        self.asked.append(frozenset((a, b)))
        self.called.release()
        await self.open.wait()
        return frozenset((a, b)) in self.pairs

    async def aclose(self) -> None:
        pass


def chain(
    index: int,
    answer: str | None,
    *,
    score: float | tuple[float, ...] = 1.0,
    tokens: int = 100,
    history: tuple[str, ...] = (),
    kind: str = "boxed",
) -> Candidate:
    return Candidate(
        chain=index,
        answer=None if answer is None else Answer(answer, kind),
        tokens=tokens,
        scores=score if isinstance(score, tuple) else (score,),
        history=tuple((turn, Answer(text, kind)) for turn, text in enumerate(history)),
    )


async def tally_of(*candidates: Candidate, judge: FakeJudge | None = None, histories: bool = False) -> Tally:
    tally = Tally(Equivalence(judge or FakeJudge()), histories=histories)
    for candidate in candidates:
        await tally.add(candidate)
    return tally


def counts(tally: Tally) -> list[int]:
    """Chains per answer, most first."""
    return [len(group.chains) for group in tally.vote("majority", started=1).groups]


async def vote_on(*candidates: Candidate, method: VoteMethod = "majority", started: int | None = None) -> Vote:
    tally = await tally_of(*candidates, histories=method == "temporal")
    return tally.vote(method, started or len(candidates))


async def test_majority_returns_the_best_scored_chain_of_the_largest_group() -> None:
    vote = await vote_on(
        chain(0, "5", score=0.1),
        chain(1, "1/2", score=0.9),
        chain(2, "0.5", score=0.4),
        chain(3, "\\frac12", score=0.7),
        started=8,
    )
    assert (vote.winner, vote.answer, vote.confidence) == (2, "0.5", 3 / 8)
    assert [(g.answer, g.chains, g.weight) for g in vote.groups] == [("0.5", (2, 3, 1), 3.0), ("5", (0,), 1.0)]


async def test_ties_go_to_the_lower_mean_score_then_to_the_lowest_chain() -> None:
    assert (await vote_on(chain(0, "1", score=0.8), chain(1, "2", score=0.3))).winner == 1
    assert (await vote_on(chain(3, "1"), chain(1, "2"), chain(2, "3"))).winner == 1
    nan = float("nan")
    assert (await vote_on(chain(0, "1", score=nan), chain(1, "2", score=5.0))).winner == 1


async def test_nobody_with_an_answer_means_no_winner() -> None:
    for method in ("majority", "weighted", "shortest", "temporal"):
        assert await vote_on(chain(0, None), chain(1, None), method=method) == Vote(None, None, 0.0, ())
    for method in ("auto", "best"):
        assert await vote_on(method=method, started=4) == Vote(None, None, 0.0, ())


async def test_auto_falls_back_to_the_best_chain_when_none_states_an_answer() -> None:
    vote = await vote_on(chain(0, None, score=0.9), chain(1, None, score=0.2), method="auto", started=4)
    assert (vote.winner, vote.answer, vote.confidence) == (1, None, 1 / 4)


async def test_auto_is_weighted_when_any_chain_states_an_answer() -> None:
    assert (await vote_on(chain(0, None, score=0.1), chain(1, "7", score=3.0), method="auto")).winner == 1
    assert (await vote_on(chain(0, "1", score=3.0), chain(1, "1", score=3.0), chain(2, "2", score=0.5))).answer == "1"
    chains = (chain(0, "1", score=3.0), chain(1, "1", score=3.0), chain(2, "2", score=0.5))
    assert (await vote_on(*chains, method="auto")).answer == "2"


async def test_best_is_the_chain_with_the_best_score_whatever_the_others_say() -> None:
    vote = await vote_on(chain(0, "1"), chain(1, "1"), chain(2, "2", score=0.5), method="best")
    assert (vote.winner, vote.answer, vote.confidence) == (2, "2", 1 / 3)
    assert vote.groups[0].answer == "2"


async def test_weighted_lets_one_likely_chain_outweigh_two_unlikely_ones() -> None:
    chains = (chain(0, "1", score=3.0), chain(1, "1", score=3.0), chain(2, "2", score=0.5))
    assert (await vote_on(*chains, method="majority")).answer == "1"
    vote = await vote_on(*chains, method="weighted")
    assert vote.answer == "2"
    spread = statistics.pstdev([3.0, 3.0, 0.5])
    assert [g.weight for g in vote.groups] == pytest.approx([1.0, 2 * math.exp(-2.5 / spread)])


async def test_weighted_takes_a_chain_for_as_strong_as_its_strangest_step() -> None:
    vote = await vote_on(chain(0, "1", score=(0.1, 0.1, 4.0)), chain(1, "2", score=(1.5, 1.5, 1.5)), method="weighted")
    assert vote.answer == "2"


async def test_weighted_does_not_depend_on_the_scale_of_the_scores() -> None:
    scores = [("1", (0.2, 0.9)), ("2", (0.3, 0.4)), ("1", (0.1, 0.8))]
    votes = [
        await vote_on(
            *(chain(i, a, score=tuple(k * x for x in s)) for i, (a, s) in enumerate(scores)), method="weighted"
        )
        for k in (1, 40)
    ]
    assert [g.weight for g in votes[0].groups] == pytest.approx([g.weight for g in votes[1].groups])


async def test_weighted_takes_a_chain_without_a_score_for_an_average_one() -> None:
    vote = await vote_on(
        chain(0, "1", score=1.0), chain(1, "2", score=3.0), chain(2, "3", score=float("nan")), method="weighted"
    )
    # the two known scores are one standard deviation from their mean
    assert {g.answer: g.weight for g in vote.groups} == pytest.approx({"1": 1.0, "2": math.exp(-2), "3": math.exp(-1)})


async def test_weighted_without_any_score_is_the_majority() -> None:
    nan = float("nan")
    vote = await vote_on(*(chain(i, a, score=nan) for i, a in enumerate("122")), method="weighted")
    assert (vote.answer, vote.groups[0].weight) == ("2", 2.0)


async def test_weighted_gives_an_impossible_chain_no_weight() -> None:
    vote = await vote_on(chain(0, "1", score=math.inf), chain(1, "2", score=9.0), method="weighted")
    assert [(g.answer, g.weight) for g in vote.groups] == [("2", 1.0), ("1", 0.0)]


async def test_shortest_divides_votes_by_the_log_of_mean_length() -> None:
    chains = [chain(i, "1", tokens=10_000) for i in range(3)] + [chain(i, "2", tokens=50) for i in (3, 4)]
    assert (await vote_on(*chains, method="majority")).answer == "1"
    vote = await vote_on(*chains, method="shortest")
    assert vote.answer == "2"
    assert [g.weight for g in vote.groups] == pytest.approx([2 / math.log(50), 3 / math.log(10_000)])


async def test_shortest_survives_chains_of_no_length() -> None:
    assert (await vote_on(chain(0, "1", tokens=0), chain(1, "2", tokens=1), method="shortest")).groups[0].weight == 1.0


async def test_temporal_counts_answers_held_at_earlier_turns_decayed() -> None:
    chains = (
        chain(0, "1", history=("2", "2")),
        chain(1, "1", history=("2", "2")),
        chain(2, "2", history=("2", "2")),
    )
    vote = await vote_on(*chains, method="temporal")
    # A vote of 1 over final, one turn and two turns earlier: 4/7, 2/7, 1/7.
    assert {g.answer: g.weight for g in vote.groups} == pytest.approx({"1": 8 / 7, "2": 13 / 7})
    assert (vote.winner, vote.confidence) == (2, 1 / 3)
    assert (await vote_on(*chains, method="majority")).answer == "1"


async def test_temporal_winner_is_an_answer_some_chain_ends_with() -> None:
    vote = await vote_on(chain(0, "1", history=("2",) * 9), chain(1, None, history=("2",) * 9), method="temporal")
    assert (vote.winner, vote.answer) == (0, "1")


async def test_temporal_counts_what_a_chain_without_an_answer_held() -> None:
    vote = await vote_on(chain(0, "1"), chain(1, "2"), chain(2, None, history=("2",)), method="temporal")
    assert (vote.answer, vote.groups[0].weight) == ("2", 2.0)


async def test_equal_keys_and_plain_numbers_never_call_the_judge() -> None:
    judge = FakeJudge()
    await tally_of(*(chain(i, a) for i, a in enumerate(["x+1", "$x + 1$", "x+1"])), judge=judge)
    await tally_of(*(chain(i, a) for i, a in enumerate(["1", "2", "1/2", "A", "yes"])), judge=judge)
    assert judge.asked == []


async def test_prose_and_json_never_call_the_judge() -> None:
    judge = FakeJudge()
    await tally_of(chain(0, "x = 2y!", kind="text"), chain(1, "x = 3y!", kind="text"), judge=judge)
    await tally_of(chain(0, "[1,2]", kind="json"), chain(1, "[1,3]", kind="json"), judge=judge)
    assert judge.asked == []


async def test_new_answer_is_compared_until_one_of_a_group_equals_it() -> None:
    judge = FakeJudge(("(x+1)^2", "x^2+2x+1"), ("x(x+2)+1", "x^2+2x+1"))
    tally = await tally_of(
        *(chain(i, a) for i, a in enumerate(["(x+1)^2", "x^2+2x+1", "x(x+2)+1", "x^2"])), judge=judge
    )
    assert counts(tally) == [3, 1]


@given(st.randoms(use_true_random=False))
def test_order_of_arrival_changes_nothing(rng: random.Random) -> None:
    # Not transitive: the middle one equals both others, which are not judged equal.
    judge_pairs = (("x+1", "1+x"), ("1+x", "(1+x)"))
    chains = [
        chain(i, answer, score=score, tokens=tokens, history=("1+x", "y^2"))
        for i, (answer, score, tokens) in enumerate(
            [
                ("x+1", 0.1, 50),
                ("(1+x)", 0.7, 20),
                ("y^2", 0.3, 90),
                ("1+x", 0.3, 10),
                ("y^2", 1 / 3, 70),
                (None, 0.2, 5),
            ]
        )
    ]
    methods: tuple[VoteMethod, ...] = ("majority", "weighted", "shortest", "temporal", "best", "auto")

    async def votes(order: list[Candidate]) -> list[Vote]:
        tally = Tally(Equivalence(FakeJudge(*judge_pairs)), histories=True)
        await asyncio.gather(*(tally.add(candidate) for candidate in order))
        return [tally.vote(method, len(order)) for method in methods]

    shuffled = rng.sample(chains, len(chains))
    assert asyncio.run(votes(chains)) == asyncio.run(votes(shuffled))


TRUTHS = (
    ("50", "50%", "5 \\cdot 10^1", "7^2+1", "2 \\cdot 5^2", "\\sqrt{2500}"),
    ("1/2", "0.5", "\\frac{1}{4}+\\frac{1}{4}", "2^{-1}"),
    ("x+1", "1+x", "(1+x)", "x-1+2"),
    ("y", "y+0", "2y-y"),
    ("17:30", "5:30 pm"),
)
SPELLED = [spelling for truth in TRUTHS for spelling in truth]


def _proofs() -> st.SearchStrategy[list[tuple[str, str]]]:
    """What a judge may know: nothing that is not true, and not all that is."""
    true = [(a, b) for truth in TRUTHS for i, a in enumerate(truth) for b in truth[:i]]
    return st.lists(st.sampled_from(true), unique=True)


def _judge(proofs: list[tuple[str, str]]) -> FakeJudge:
    return FakeJudge(*((spoken(canonical_key(a)), spoken(canonical_key(b))) for a, b in proofs))


@given(_proofs(), st.lists(st.sampled_from(SPELLED), max_size=9), st.randoms(use_true_random=False))
def test_groups_do_not_depend_on_the_order_of_arrival(
    proofs: list[tuple[str, str]], answers: list[str], rng: random.Random
) -> None:
    chains = [chain(index, answer) for index, answer in enumerate(answers)]

    async def groups(order: list[Candidate]) -> set[frozenset[int]]:
        tally = await tally_of(*order, judge=_judge(proofs))
        return {frozenset(group.chains) for group in tally.vote("majority", len(order)).groups}

    assert asyncio.run(groups(chains)) == asyncio.run(groups(rng.sample(chains, len(chains))))


@given(_proofs(), st.lists(st.sampled_from(SPELLED), min_size=1, max_size=12))
def test_an_end_that_is_exact_never_changes_the_winner(proofs: list[tuple[str, str]], answers: list[str]) -> None:
    async def winners() -> None:
        tally = await tally_of(judge=_judge(proofs))
        early: set[int] = set()
        for index, answer in enumerate(answers):
            await tally.add(chain(index, answer))
            leader = tally.leader()
            if not early and leader is not None and decided(tally.contest(), len(answers) - index - 1):
                early = set(leader.chains)
        leader = tally.leader()
        assert leader is not None and early <= set(leader.chains)

    asyncio.run(winners())


async def test_what_algebra_may_yet_join_counts_with_the_runner_up() -> None:
    judge = FakeJudge(("x+1", "1+x"), ("1+x", "(1+x)"))
    tally = await tally_of(chain(0, "x+1"), chain(1, "(1+x)"), *(chain(i, "y") for i in range(2, 5)), judge=judge)
    assert (counts(tally), tally.contest()) == ([3, 1, 1], [3, 2])
    await tally.add(chain(5, "1+x"))
    assert (counts(tally), tally.contest()) == ([3, 3], [3, 3])
    numbers = await tally_of(*(chain(i, answer) for i, answer in enumerate(["1", "2", "3", "3"])))
    assert (counts(numbers), numbers.contest()) == ([2, 1, 1], [2, 1])
    assert (await tally_of()).contest() == []


async def test_leader_and_counts_follow_arrivals() -> None:
    tally = await tally_of()
    assert (tally.leader(), counts(tally)) == (None, [])
    await tally.add(chain(0, "1"))
    await tally.add(chain(1, "2"))
    await tally.add(chain(2, "2.0"))
    await tally.add(chain(3, None))
    leader = tally.leader()
    assert leader is not None
    assert (leader.answer, leader.chains, leader.weight) == ("2", (1, 2), 2.0)
    assert counts(tally) == [2, 1]


async def test_answers_that_arrive_while_another_is_compared_are_compared_too() -> None:
    judge = FakeJudge(("x+1", "1+x"))
    tally = await tally_of(chain(0, "y"), judge=judge)
    judge.open.clear()
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(tally.add(chain(1, "x+1")))
        tasks.create_task(tally.add(chain(2, "1+x")))
        await judge.called.acquire()
        await judge.called.acquire()
        judge.open.set()
    assert counts(tally) == [2, 1]


async def test_after_its_deadline_answers_are_compared_by_what_is_known_at_once() -> None:
    judge = FakeJudge(("x+1", "1+x"))
    equivalence = Equivalence(judge)
    assert await equivalence.same("x+1", "1+x")
    tally = Tally(equivalence, deadline=asyncio.get_running_loop().time())
    for index, answer in enumerate(["1/2", "0.5", "\\frac{1}{2}"]):
        await tally.add(chain(index, answer))
    assert (counts(tally), tally.cut_short) == ([3], False)
    judge.asked.clear()
    for index, answer in enumerate(["x+1", "1+x", "y^2"], start=3):
        await tally.add(chain(index, answer))
    assert (counts(tally), tally.cut_short) == ([3, 2, 1], True)
    assert judge.asked == []


async def test_a_deadline_that_passes_does_not_wait_for_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, judge = Clock(monkeypatch), FakeJudge(("x+1", "1+x"))
    tally = Tally(Equivalence(judge), deadline=asyncio.get_running_loop().time() + LIMIT_S)
    await tally.add(chain(0, "x+1"))
    judge.open.clear()
    async with asyncio.timeout(2 * LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(tally.add(chain(1, "1+x")))
        await judge.called.acquire()
        clock.pass_limit()
    assert (counts(tally), tally.cut_short) == ([1, 1], True)


async def test_chain_cancelled_while_it_waits_does_not_vote() -> None:
    judge = FakeJudge()
    tally = await tally_of(chain(0, "y"), judge=judge)
    judge.open.clear()
    task = asyncio.create_task(tally.add(chain(1, "x+1")))
    async with asyncio.timeout(5):
        await judge.called.acquire()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert counts(tally) == [1]
