"""Model addresses: parsed, refused with the nearest known one, shared."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from a1agent import InvalidOption, ModelLoadError, ModelNotFound, NotEnoughMemory
from a1agent.backends import transformers
from a1agent.backends.base import Backend
from a1agent.backends.registry import Address, Pool, check_memory, parse_address


def test_an_address_carries_typed_options() -> None:
    address = parse_address("scripted:sums?accuracy=0.5&can_score=no")
    assert address == Address("scripted", "sums", (("accuracy", 0.5), ("can_score", False)))


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lama-cpp:m.gguf", "llama-cpp"),
        ("scripted:sums?acuracy=1", "accuracy"),
        ("scripted:sums?accuracy=high", "how often"),
        ("scripted:sums?can_score=perhaps", "may serve as target"),
        ("llama-cpp:what?.gguf", "%3F"),
        ("models/m.gguf", "llama-cpp:models/m.gguf"),
        ("M.GGUF?n_ctx=512", "llama-cpp:M.GGUF?n_ctx=512"),
        ("ORG/NAME", "hf:ORG/NAME"),
        ("llama-cpp:", "llama-cpp:model.gguf"),
        ("", "known"),
    ],
)
def test_a_wrong_address_says_what_to_write(text: str, hint: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_address(text)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("scripted:sums?accuracy=high", "accuracy='high' is not a number"),
        ("scripted:sums?can_score=perhaps", "can_score='perhaps' is not true or false"),
        ("llama-cpp:m.gguf?n_ctx=8k", "n_ctx='8k' is not a whole number"),
    ],
)
def test_a_value_of_a_wrong_type_is_told_in_words(text: str, what: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_address(text)
    assert caught.value.what == what


@pytest.mark.parametrize("scheme", ["llama-cpp", "hf"])
def test_signs_of_an_address_in_the_name_of_a_file_can_be_encoded(scheme: str) -> None:
    address = parse_address(f"{scheme}:/models/what%3F%23%25.gguf?n_ctx=512" if scheme == "llama-cpp" else "hf:a%23b")
    assert address.path == ("/models/what?#%.gguf" if scheme == "llama-cpp" else "a#b")
    assert dict(address.options) == ({"n_ctx": 512} if scheme == "llama-cpp" else {})


def test_a_plus_in_an_option_is_no_blank() -> None:
    address = parse_address("openai:http://localhost:8080?tokenizer=/opt/c++/a b%2B%20c")
    assert dict(address.options) == {"tokenizer": "/opt/c++/a b+ c"}


@pytest.mark.parametrize("name", ["a#b.gguf", "100%25.gguf", "100%.gguf"])
def test_a_path_that_is_there_is_taken_as_it_stands(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert parse_address(f"llama-cpp:{tmp_path / name}") == Address("llama-cpp", str(tmp_path / name))


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


def test_a_model_that_takes_long_to_load_keeps_nobody_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go, loads = threading.Event(), threading.Event(), list[str]()
    load = Address.load

    def slow(address: Address, _: Any) -> Backend:
        loads.append(address.path)
        if address.options:
            begun.set()
            assert go.wait(30)
        return load(address)

    monkeypatch.setattr(Address, "load", slow)
    pool, hanging, quick = Pool(), parse_address("scripted:sums?accuracy=0.5"), parse_address("scripted:sums")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.acquire, hanging)
        assert begun.wait(30)
        second = threads.submit(pool.acquire, hanging)
        assert pool.acquire(quick) is pool.acquire(quick)
        assert (pool.loaded(quick), pool.loaded(hanging), first.done(), second.done()) == (True, False, False, False)
        go.set()
        assert first.result(30) is second.result(30)
    assert loads == ["sums", "sums"]


def refuse(address: Address, _: Any) -> Backend:
    raise ModelLoadError(f"{address} does not load", "it never does")


def test_a_model_that_does_not_load_is_tried_again_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, address = Pool(), parse_address("scripted:sums")
    with monkeypatch.context() as broken:
        broken.setattr(Address, "load", refuse)
        with pytest.raises(ModelLoadError):
            pool.acquire(address)
    assert not pool.loaded(address)
    backend = pool.acquire(address)
    assert pool.release(address) is backend


def test_a_pair_that_does_not_fit_is_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Address, "memory", lambda self: 3 * 2**30)
    pair = [parse_address("scripted:sums"), parse_address("scripted:sums?accuracy=0.5")]
    check_memory(pair, 7 * 2**30)
    with pytest.raises(NotEnoughMemory) as caught:
        check_memory(pair, 4 * 2**30)
    assert "3.0 GiB for scripted:sums + 3.0 GiB" in caught.value.what


def test_models_that_are_not_there_are_all_named() -> None:
    addresses = [parse_address(f"llama-cpp:{name}.gguf") for name in ("small", "large")]
    with pytest.raises(ModelNotFound) as caught:
        check_memory(addresses, None)
    assert "'small.gguf'" in caught.value.what and "'large.gguf'" in caught.value.what
    assert caught.value.hint == "check the path of the model"


def test_a_backend_that_can_leaves_room_for_models_of_its_kind_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(transformers, "load_before", lambda *given, **options: asked.append((*given, options)))
    pool, first = Pool(), Address("hf", "small", (("n_ctx", 64),))
    pool.acquire(first, [Address("hf", "large", (("dtype", "float16"),)), parse_address("scripted:sums")])
    assert asked == [("small", [("large", {"dtype": "float16"})], {"n_ctx": 64})]
