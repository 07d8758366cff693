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
    ("name", "value"), [("chains", True), ("seed", -1), ("stop_probability", 2), ("max_tokens", 0)]
)
def test_values_out_of_range_name_the_option(name: str, value: object) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.of(**{name: value})
    assert name in caught.value.what
