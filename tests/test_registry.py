"""Model addresses: parsed, refused with the nearest known one, shared."""

import pytest

from a1agent import InvalidOption, ModelNotFound, NotEnoughMemory
from a1agent.backends.registry import Address, Pool, check_memory, parse_address


def test_an_address_carries_typed_options() -> None:
    address = parse_address("scripted:sums?accuracy=0.5&can_score=no")
    assert address == Address("scripted", "sums", (("accuracy", 0.5), ("can_score", False)))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lama-cpp:m.gguf", "llama-cpp"),
        ("scripted:sums?acuracy=1", "accuracy"),
        ("scripted:sums?accuracy=high", "float"),
        ("scripted:sums?can_score=perhaps", "true or false"),
        ("models/m.gguf", "llama-cpp:models/m.gguf"),
        ("llama-cpp:", "llama-cpp:model.gguf"),
        ("", "known"),
    ],
)
def test_a_wrong_address_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_address(text)
    assert hint in caught.value.hint


def test_there_are_two_embedded_models() -> None:
    assert parse_address("embedded:draft").path == "draft"
    with pytest.raises(ModelNotFound):
        parse_address("embedded:drift")


def test_a_model_is_loaded_once_and_freed_by_its_last_user() -> None:
    pool, address = Pool(), parse_address("scripted:sums")
    first, second = pool.acquire(address), pool.acquire(address)
    assert first is second
    assert pool.release(address) is None
    assert pool.release(address) is first
    assert not pool.loaded(address)


def test_a_pair_that_does_not_fit_is_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Address, "memory", lambda self: 3 * 2**30)
    pair = [parse_address("scripted:sums"), parse_address("scripted:sums?accuracy=0.5")]
    check_memory(pair, 7 * 2**30)
    with pytest.raises(NotEnoughMemory) as caught:
        check_memory(pair, 4 * 2**30)
    assert "3.0 GiB for scripted:sums + 3.0 GiB" in caught.value.what
