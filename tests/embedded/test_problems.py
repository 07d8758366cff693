"""The problem generator: seeded, right in every number it says, and never leaking a test problem into training."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import islice

import pytest

from a1agent.embedded.problems import FAMILIES, Problem, problems, split_of
from tests.embedded.helpers import solved, statements, value_of

SAMPLE = 3000


@pytest.fixture(scope="module")
def made() -> list[Problem]:
    return [*problems(SAMPLE, 11), *problems(SAMPLE, 11, split="train")]


def test_same_seed_gives_same_problems() -> None:
    assert list(problems(50, 3)) == list(problems(50, 3))
    assert list(problems(50, 3)) != list(problems(50, 4))


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert list(islice(problems(50, 3), 20)) == list(problems(20, 3))


def test_every_family_is_there_and_can_be_chosen(made: list[Problem]) -> None:
    assert {problem.family for problem in made} == set(FAMILIES)
    for family in FAMILIES:
        assert {problem.family for problem in problems(5, 0, [family])} == {family}


def test_an_unknown_family_is_an_error() -> None:
    with pytest.raises(ValueError, match="poems"):
        next(problems(1, 0, ["poems"]))


def test_no_question_of_one_split_is_in_the_other() -> None:
    test = {problem.question for seed in range(4) for problem in problems(1000, seed)}
    train = {problem.question for seed in range(4) for problem in problems(1000, seed, split="train")}
    assert not test & train


def test_other_words_for_a_test_problem_are_not_in_training() -> None:
    def asked(problem: Problem) -> tuple[str, ...]:
        return tuple(re.findall(r"[\d()x]+|[-+*]", problem.question))

    plain = ("sums", "products", "mixed")
    test = {asked(problem) for problem in problems(2000, 5, plain)}
    train = {asked(problem) for problem in problems(2000, 5, plain, split="train")}
    assert not test & train


def test_the_readme_example_is_held_out() -> None:
    assert split_of("47 * 28 + 783") == "test"


def test_a_test_run_does_not_repeat_questions() -> None:
    questions = [problem.question for problem in problems(500, 7)]
    assert len(set(questions)) == 500


def test_answers_are_right(made: list[Problem]) -> None:
    checked = 0
    for problem in made:
        if problem.family != "words":
            assert solved(problem.question) == int(problem.answer), problem
            checked += 1
    assert checked > SAMPLE


def test_every_statement_in_every_step_is_true(made: list[Problem]) -> None:
    for problem in made:
        found = [sides for step in problem.steps for sides in statements(step)]
        assert found, problem
        for sides in found:
            assert len({value_of(side) for side in sides}) == 1, (problem, sides)


def test_no_value_is_negative_or_broken(made: list[Problem]) -> None:
    for problem in made:
        assert not re.search(r"-\d|\d\.\d", f"{problem.question}\n{problem.solution}"), problem
        assert int(problem.answer) >= 0


def test_the_last_step_and_only_it_states_the_answer(made: list[Problem]) -> None:
    for problem in made:
        assert problem.steps[-1].endswith(f"\\boxed{{{problem.answer}}}")
        assert all("boxed" not in step for step in problem.steps[:-1])
        assert all(step and "\n" not in step for step in problem.steps)
        assert problem.solution == "\n\n".join(problem.steps)


def test_a_solution_fits_the_default_number_of_turns(made: list[Problem]) -> None:
    assert max(len(problem.steps) for problem in made) <= 12


def test_story_problems_take_two_to_five_steps(made: list[Problem]) -> None:
    worked = {len(problem.steps) for problem in made if problem.family == "words"}
    assert worked <= {2, 3, 4, 5}
    assert len(worked) >= 3


def test_questions_and_steps_are_worded_in_several_ways(made: list[Problem]) -> None:
    questions, steps = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for problem in made:
        questions[problem.family].add(" ".join(re.findall(r"[A-Za-z]+", problem.question)))
        steps[problem.family] |= {" ".join(re.findall(r"[A-Za-z]+", step)) for step in problem.steps}
    for family in FAMILIES:
        assert len(questions[family]) >= 4
        assert len(steps[family]) >= 7
