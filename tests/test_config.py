"""Options: checked, frozen, and documented."""

import dataclasses

import pytest

from a1agent import InvalidOption, Options
from a1agent.config import help_of


def test_every_option_has_a_help_text() -> None:
    assert all(help_of(field.name) for field in dataclasses.fields(Options))


def test_a_changed_copy_leaves_the_original_alone() -> None:
    options = Options()
    assert options.replace(chains=3).chains == 3
    assert options.chains == 8


def test_a_single_stop_string_is_not_taken_apart() -> None:
    assert Options(stop="END").stop == ("END",)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"), [("chains", True), ("chains", 10_001), ("seed", -1), ("stop_probability", 2), ("max_tokens", 0)]
)
def test_values_out_of_range_name_the_option(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.of(**{name: value})
    assert name in caught.value.what


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vote": "most"}, "vote is 'most': use one of: auto, majority, weighted, shortest, temporal, best"),
        ({"rejection_rate": "0.3"}, "rejection_rate is '0.3', a str: it is a number, a share between 0 and 1"),
        ({"rejection_rate": 3}, "rejection_rate is 3: it is a share between 0 and 1"),
        ({"temperature": None}, "temperature is None, a NoneType: use a number, 0 (greedy) or more"),
        ({"chains": "8"}, "chains is '8', a str: it is a whole number"),
        ({"chains": 2.5}, "chains is 2.5: it is a whole number"),
        ({"stop": ""}, "stop holds '', a str: each is a text of one character or more"),
        ({"stop": ["END", 5]}, "stop holds 5: each is a text of one character or more"),
        ({"stop": 5}, "stop is 5: it is a text or a list of texts"),
    ],
)
def test_a_value_that_will_not_do_is_told_with_those_that_will(options: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.of(**options)
    assert str(caught.value) == told
