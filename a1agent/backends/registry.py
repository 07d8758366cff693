"""Model addresses: `SCHEME:PATH?option=value`, parsed, checked, loaded, and shared between users of the same model."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, unquote

from a1agent.backends.base import Backend
from a1agent.backends.hub import is_repository
from a1agent.backends.options import kind_name
from a1agent.errors import InvalidOption, ModelNotFound, NotEnoughMemory, nearest

__all__ = ["SCHEMES", "Address", "Pool", "Scheme", "address_of_file", "check_memory", "parse_address"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A kind of model address: the module that loads it, and whether its models can score, where that is known.

    `package`: what must be installed for it, which the extra `extra` brings. `defaults`: options that are others here.
    """

    name: str
    module: str
    example: str
    summary: str
    can_score: bool = True
    package: str | None = None
    extra: str | None = None
    defaults: tuple[tuple[str, Any], ...] = ()


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            name="embedded",
            module="a1agent.backends.llama_cpp",
            example="embedded:draft",
            summary="the pair that ships with a1agent, in llama.cpp",
            package="llama_cpp",
            extra="llama-cpp",
            defaults=(("keep_tokens", 128),),  # what such small models would look at longer than it takes to read anew
        ),
        Scheme(
            name="llama-cpp",
            module="a1agent.backends.llama_cpp",
            example="llama-cpp:model.gguf?n_ctx=8192&n_gpu_layers=-1",
            summary="a GGUF file in process, through llama-cpp-python",
            package="llama_cpp",
            extra="llama-cpp",
        ),
        Scheme(
            name="hf",
            module="a1agent.backends.transformers",
            example="hf:ORG/NAME?dtype=bfloat16",
            summary="a model of transformers in process, on a processor or a GPU",
            package="transformers",
            extra="transformers",
        ),
        Scheme(
            name="vllm",
            module="a1agent.backends.vllm",
            example="vllm:http://localhost:8000#MODEL",
            summary="a model served by vLLM",
        ),
        Scheme(
            name="sglang",
            module="a1agent.backends.sglang",
            example="sglang:http://localhost:30000#MODEL",
            summary="a model served by SGLang",
        ),
        Scheme(
            name="openai",
            module="a1agent.backends.openai",
            example="openai:http://localhost:8080#MODEL",
            summary="a model on any server with OpenAI's API (llama-server, Ollama, LM Studio, hosted)",
            can_score=False,
        ),
        Scheme(
            name="scripted",
            module="a1agent.backends.scripted",
            example="scripted:sums?accuracy=0.8",
            summary="a deterministic double, for tests",
        ),
    )
}

_EMBEDDED = ("draft", "target")
_OF_FILES = ("llama-cpp", "hf")


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed model address; `options` are values of the scheme's option types."""

    scheme: str
    path: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.options)
        return f"{self.scheme}:{self.path}" + (f"?{query}" if query else "")

    def load(self, later: Sequence[Address] = ()) -> Backend:
        """The model, loaded; may take long. It leaves room for those that are loaded `later`, where its backend can.

        Raises `ModelError`, `MissingExtra`.
        """
        module, options = _module(self.scheme), self.keywords
        others = [(other.file, other.keywords) for other in later if other.scheme == self.scheme]
        if others and hasattr(module, "load_before"):
            return module.load_before(self.file, others, **options)
        return module.load(self.file, **options)

    @property
    def keywords(self) -> dict[str, Any]:
        """The options as the loader takes them."""
        return dict((*SCHEMES[self.scheme].defaults, *self.options))

    @property
    def file(self) -> str:
        """The path as the loader takes it."""
        if self.scheme != "embedded":
            return self.path
        from a1agent import embedded

        return str(embedded.path("draft" if self.path == "draft" else "target"))

    def memory(self) -> int:
        """Bytes it would take, as far as that can be told before loading; 0 when unknown."""
        return self._told("estimate_memory")

    def bytes_ahead(self) -> int:
        """Bytes that it takes at least where they are still to be fetched; 0 where they are here, or unknown."""
        return self._told("bytes_ahead")

    def _told(self, name: str) -> int:
        """What a function of the scheme's module tells of the model; 0 without such a function."""
        tell: Callable[..., int] | None = getattr(_module(self.scheme), name, None)
        return tell(self.file, **self.keywords) if tell else 0


def _module(scheme: str) -> ModuleType:
    return importlib.import_module(SCHEMES[scheme].module)


def parse_address(text: str) -> Address:
    """The address in `text`. Raises `InvalidOption` for an unknown scheme or option, naming the nearest known one."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in SCHEMES:
        if text.partition("?")[0].lower().endswith(".gguf"):
            raise InvalidOption(f"{text!r} has no scheme", f"write llama-cpp:{text}")
        if not colon and is_repository(text):
            raise InvalidOption(f"{text!r} has no scheme", f"write hf:{text}")
        raise InvalidOption(f"unknown model address {text!r}", nearest(scheme, SCHEMES))
    path, query = _split_file(rest) if scheme in _OF_FILES else _split(rest)
    if not path:
        raise InvalidOption(f"the address {text!r} names no model", f"for example {SCHEMES[scheme].example}")
    check: Callable[[str], object] | None = getattr(_module(scheme), "check_path", None)
    if check is not None:
        check(path)
    if scheme == "embedded" and path not in _EMBEDDED:
        raise ModelNotFound(f"there is no embedded model {path!r}", nearest(path, _EMBEDDED))
    return Address(scheme, path, _options(scheme, query))


def _split(rest: str) -> tuple[str, str]:
    """Path and query; a query may stand before a `#MODEL` or after it."""
    before, mark, model = rest.partition("#")
    path, _, query = before.partition("?")
    model, _, more = model.partition("?")
    return path + mark + model, "&".join(part for part in (query, more) if part)


def _split_file(rest: str) -> tuple[str, str]:
    """Path and query; the path may write ? as %3F, # as %23 and % as %25, unless it is there as it stands."""
    path, query = _split(rest)
    literal = "%" not in path or os.path.exists(os.path.expanduser(path))
    return path if literal else unquote(path), query


def address_of_file(file: Path) -> str:
    """The address of a GGUF file in llama.cpp: in its path ?, # and % are escaped."""
    return "llama-cpp:" + str(file).replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def _options(scheme: str, query: str) -> tuple[tuple[str, Any], ...]:
    known: dict[str, tuple[type, str]] = _module(scheme).OPTIONS
    values: dict[str, Any] = {}
    for key, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):  # a + in a path is no blank
        if key not in known:
            of_a_name = scheme in _OF_FILES and not key.isidentifier()
            hint = "write a ? in the name of a file as %3F" if of_a_name else nearest(key, known)
            raise InvalidOption(f"unknown option {key!r} of {scheme}: models", hint)
        values[key] = _convert(key, value, *known[key])
    return tuple(sorted(values.items()))


def _convert(key: str, value: str, kind: type, meaning: str) -> Any:
    if kind is bool:
        if value.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return value.lower() in ("1", "true", "yes", "on")
        raise InvalidOption(f"{key}={value!r} is not {kind_name(kind)}", meaning)
    try:
        return kind(value)
    except ValueError:
        raise InvalidOption(f"{key}={value!r} is not {kind_name(kind)}", meaning) from None


def check_memory(addresses: list[Address], available: int | None) -> None:
    """Raises `NotEnoughMemory` when the models and their caches do not fit together; `available` in bytes.

    What does not fit by its weights alone is not fetched. Raises `ModelNotFound` that names every model that is not
    there, and what else reading their files raises.
    """
    ahead = _needs(addresses, Address.bytes_ahead)
    here = [address for address in addresses if not ahead[str(address)]]
    if len(here) < len(addresses):
        _fit(ahead | _needs(here, Address.memory), available, addresses)
    _fit(_needs(addresses, Address.memory), available, addresses)


def _fit(needs: dict[str, int], available: int | None, addresses: list[Address]) -> None:
    if available is None or sum(needs.values()) <= available:
        return
    parts = " + ".join(f"{need / 2**30:.1f} GiB for {name}" for name, need in needs.items())
    raise NotEnoughMemory(
        f"the models and their caches need {parts}, this machine has {available / 2**30:.1f} GiB free",
        f"lower n_ctx or kv_tokens, {_saving(addresses)}or use smaller models",
    )


def _saving(addresses: list[Address]) -> str:
    """The options of these models that take less memory."""
    known = {option for address in addresses for option in _module(address.scheme).OPTIONS}
    ways = {"type_k": "quantize the cache (type_k=q8_0&type_v=q8_0), ", "dtype": "use dtype=bfloat16, "}
    return "".join(way for option, way in ways.items() if option in known)


def _needs(addresses: list[Address], measure: Callable[[Address], int]) -> dict[str, int]:
    needs: dict[str, int] = {}
    missing: list[ModelNotFound] = []
    for address in addresses:
        try:
            needs[str(address)] = measure(address)
        except ModelNotFound as error:
            missing.append(error)
    if missing:
        hints = dict.fromkeys(error.hint for error in missing)
        raise ModelNotFound("; ".join(error.what for error in missing), "; ".join(hints)) from missing[0]
    return needs


@dataclass(slots=True, eq=False)
class _Entry:
    """A model and how many use it or wait for it; `turn` is held by the one that loads it."""

    backend: Backend | None = None
    users: int = 0
    turn: threading.Lock = field(default_factory=threading.Lock)


class Pool:
    """Loaded models by address, so that users of the same model share it. Safe to use from several threads.

    A model that takes long to load, or whose server does not answer, keeps nobody from loading and using others.
    """

    def __init__(self) -> None:
        self._entries: dict[Address, _Entry] = {}
        self._lock = threading.Lock()

    def acquire(self, address: Address, later: Sequence[Address] = ()) -> Backend:
        """The model of an address, loaded once. Raises what loading raises, and keeps nothing then.

        `later`: those that its user loads after it.
        """
        with self._lock:
            entry = self._entries.setdefault(address, _Entry())
            entry.users += 1
        try:
            with entry.turn:
                if entry.backend is None:
                    entry.backend = address.load(later)
                return entry.backend
        except BaseException:
            self.release(address)
            raise

    def release(self, address: Address) -> Backend | None:
        """Gives a model back; returns it when nobody uses it any more, for the caller to close."""
        with self._lock:
            entry = self._entries[address]
            entry.users -= 1
            if entry.users:
                return None
            del self._entries[address]
            return entry.backend

    def begin_anew(self) -> None:
        """Forgets every model, in a forked process: they stayed in its parent."""
        self._entries, self._lock = {}, threading.Lock()

    def loaded(self, address: Address) -> bool:
        """Whether the model of an address is loaded already."""
        with self._lock:
            entry = self._entries.get(address)
            return entry is not None and entry.backend is not None
