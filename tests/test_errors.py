"""Errors: what happened, what to do, and across processes."""

import pickle

import pytest

from a1agent import errors

ERRORS = [name for name in errors.__all__ if isinstance(getattr(errors, name), type)]


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in ("MissingExtra", "SolveError")])
def test_an_error_says_what_happened_and_what_to_do_and_pickles(name: str) -> None:
    error = getattr(errors, name)("it broke", "mend it")
    assert str(error) == "it broke: mend it"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.what, copy.hint) == (type(error), "it broke", "mend it")


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = pickle.loads(pickle.dumps(errors.MissingExtra("llama.cpp models", "llama-cpp")))
    assert error.hint == "pip install 'a1agent[llama-cpp]'"


def test_a_failed_call_keeps_its_causes_across_processes() -> None:
    error = pickle.loads(pickle.dumps(errors.SolveError("all failed", "", (OSError("gone"),), None)))
    assert str(error.causes[0]) == "gone"


def test_the_nearest_word_is_named_or_all_of_them() -> None:
    assert errors.nearest("chians", ["chains", "turns"]) == "did you mean 'chains'?"
    assert errors.nearest("bogus", ["verbose", "turns"]) == "known: turns, verbose"
    assert errors.nearest("zzz", ["b", "a"]) == "known: a, b"


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in ERRORS)
