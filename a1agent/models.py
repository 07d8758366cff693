"""The pair of models of an agent: checked at construction, loaded with the first question, shared between agents."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from a1agent.backends.base import Backend
from a1agent.backends.memory import available_memory
from a1agent.backends.registry import SCHEMES, Address, Pool, check_memory, parse_address
from a1agent.config import Options
from a1agent.errors import BackendClosed, CannotRewind, CannotScore, InvalidOption

__all__ = ["SAME", "Loaded", "Model", "Pair"]

Model = str | Backend

SAME = "same"
_POOL = Pool()
_STEP_FLOOR = 256
"""Tokens before a blank line ends a step, for models whose paragraphs are short against their reasoning."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Both models, loaded."""

    draft: Backend
    target: Backend
    short_steps: bool

    @property
    def judges_itself(self) -> bool:
        """Whether one model is both, and knows the scores of its steps when it has written them."""
        return self.draft is self.target and self.draft.info.scores_as_it_writes

    @property
    def in_turn(self) -> bool:
        """Whether the models run one at a time. Small ones may have parts of one processor to themselves."""
        places = _place(self.draft), _place(self.target)
        return None not in places and places[0] == places[1]

    def looks_ahead(self, options: Options) -> bool:
        """Whether the draft writes on while the target reads."""
        if options.lookahead != "auto":
            return options.lookahead == "on"
        processors = self.draft.info.processor, self.target.info.processor
        return None not in processors and processors[0] != processors[1] and self.draft.info.can_rewind

    def settle(self, options: Options) -> Options:
        """The options with what depends on the models filled in.

        Raises `CannotScore` when steps are to be scored by a target that cannot, `CannotRewind` when steps are to be
        taken back and a model cannot do that, `InvalidOption` when one that judges itself is to look ahead or to score
        a share of its steps (it has all scores with what it writes), or when steps are to be rolled back by a target
        that does not tell which text its tokens are.
        """
        if options.verify_rate > 0:
            _check_target(self.target)
        if self.judges_itself:
            _check_judge(options)
        takes_back = [self.draft, self.target] if options.takeover != "continue" else []
        if options.lookahead == "on":
            takes_back.append(self.draft)
        for backend in takes_back:
            if not backend.info.can_rewind:
                raise CannotRewind(
                    f"{backend.info.name} cannot take a step back (a recurrent or hybrid model)",
                    'use takeover="continue" without lookahead="on", or another model',
                )
        if options.takeover == "rollback" and not self.target.info.can_spell:
            what = f"takeover is 'rollback' and {self.target.info.name} does not tell the text of single tokens"
            raise InvalidOption(what, "give its tokenizer: ?tokenizer=PATH")
        if options.min_step_tokens is not None:
            return options
        return options.replace(min_step_tokens=0 if self.short_steps else min(_STEP_FLOOR, options.step_tokens))


def _check_judge(options: Options) -> None:
    """Refuses what does nothing in a model that judges itself, but where nothing is rejected anyway."""
    screens = options.verify_rate < 1 and options.rejection_rate > 0
    for name, given in (("lookahead", options.lookahead == "on"), ("verify_rate", screens)):
        if given:
            what = f"{name} is {getattr(options, name)!r} and the target the draft itself"
            raise InvalidOption(what, f"it knows the scores of its steps when it has written them: leave {name} out")


def _place(backend: Backend) -> str | None:
    """The thread that runs a model in this process, or the processor that one elsewhere has."""
    thread: str | None = getattr(getattr(backend, "engine", None), "thread", None)
    return thread or backend.info.processor


class Pair:
    """Draft and target, by address or as backends that the caller owns. A target `"same"` is the draft itself.

    `reads`: whether the target is to score anything; a draft that is its own and does not may be any model.
    """

    def __init__(self, draft: Model, target: Model, *, reads: bool = True) -> None:
        own = _address(draft)
        self._given = {"draft": own, "target": own if target == SAME else _address(target)}
        self._scores = reads or target != SAME
        self._held: list[Address] = []
        self._loaded: Loaded | None = None
        self._loading: Future[Loaded] | None = None
        self._closed = False
        self._abandoned = False
        self._process = os.getpid()
        self._lock = threading.Lock()
        if self._scores:
            _check_target(self._given["target"])

    @property
    def embedded(self) -> bool:
        """Whether the target is the embedded one."""
        target = self._given["target"]
        return isinstance(target, Address) and target.scheme == "embedded"

    @property
    def names(self) -> tuple[str, str]:
        """Names of draft and target, loaded or not."""
        draft, target = (str(m) if isinstance(m, Address) else m.info.name for m in self._given.values())
        return draft, target

    def __str__(self) -> str:
        draft, target = self.names
        return f"{draft}, its own target" if self._given["draft"] == self._given["target"] else f"{draft} and {target}"

    @property
    def loaded(self) -> Loaded | None:
        """Both models, once they are loaded and until they are closed."""
        return None if self._closed or self._forked else self._loaded

    @property
    def _forked(self) -> bool:
        """Whether the models belong to the process that this one was forked from."""
        return self._loading is not None and self._process != os.getpid()

    async def load(self) -> Loaded:
        """Both models; loads them the first time. Raises `ModelError`, `MissingExtra`, `BackendClosed`."""
        return self.loaded or await asyncio.wrap_future(self._load())

    def _load(self) -> Future[Loaded]:
        """The load that all who need the models wait for; after one that failed, the next.

        It has a thread of its own: those of the event loop are few, and are for what ends soon.
        """
        if self._forked:  # told before the lock is asked for, which the parent may have held at that moment
            what = "the models of this A1 were loaded before this process was forked, and stayed in its parent"
            raise BackendClosed(what, 'make an A1 in each process, or start processes with "spawn"')
        with self._lock:
            if self._closed:
                raise BackendClosed("this A1 was closed", "make a new one")
            if self._loading is None:
                self._loading, self._process = Future(), os.getpid()
                self._loading.set_running_or_notify_cancel()
                name, given = "a1agent-load", (self._loading,)
                threading.Thread(target=self._fill, args=given, name=name, daemon=self._only_asks).start()
            return self._loading

    @property
    def _only_asks(self) -> bool:
        """Whether loading is but asking servers, which may be given up at any moment; native code may not."""
        return all(not isinstance(m, Address) or SCHEMES[m.scheme].package is None for m in self._given.values())

    def _fill(self, loading: Future[Loaded]) -> None:
        try:
            loaded = self._acquire()
        except BaseException as error:
            with self._lock:
                self._loading = None
            loading.set_exception(error)
        else:
            with self._lock:
                self._loaded = loaded
                unused = self._release() if self._abandoned else []
            for backend in unused:
                asyncio.run(backend.aclose())
            loading.set_result(loaded)

    def _acquire(self) -> Loaded:
        new = {m for m in self._given.values() if isinstance(m, Address) and not _POOL.loaded(m)}
        check_memory(sorted(new, key=str), available_memory())
        backends: list[Backend] = []
        try:
            for model in self._given.values():
                if not isinstance(model, Address):
                    backends.append(model)
                    continue
                new.discard(model)
                backends.append(_POOL.acquire(model, sorted(new, key=str)))
                self._held.append(model)
            if self._scores:
                _check_target(backends[1])
        except BaseException:
            for backend in self._release():  # in a thread without a loop: one that failed leaves nothing loaded
                asyncio.run(backend.aclose())
            raise
        short = all(not isinstance(m, Address) or m.scheme in ("embedded", "scripted") for m in self._given.values())
        return Loaded(backends[0], backends[1], short)

    def _release(self) -> list[Backend]:
        unused = [backend for address in self._held if (backend := _POOL.release(address)) is not None]
        self._held.clear()
        return unused

    async def aclose(self) -> None:
        """Gives both models back; the last user of one frees it. Waits for a load under way, but not for servers."""
        if self._forked:
            return
        with self._lock:
            self._closed, loading = True, self._loading
            self._abandoned = loading is not None and self._loaded is None and self._only_asks
        if self._abandoned:
            return
        if loading is not None:
            with contextlib.suppress(Exception):  # told to those who wait for the models
                await asyncio.wrap_future(loading)
        with self._lock:
            self._loaded = None
            unused = self._release()
        for backend in unused:
            await backend.aclose()


def _address(model: Model) -> Address | Backend:
    if isinstance(model, str):
        return parse_address(model)
    if not isinstance(model, Backend):  # pyright: ignore[reportUnnecessaryIsInstance]  who checks no types may err
        what = f"a model is {model!r}, a {type(model).__name__}"
        raise InvalidOption(what, 'it is an address, such as "llama-cpp:model.gguf", or a backend')
    return model


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.begin_anew)


def _check_target(target: Address | Backend) -> None:
    if isinstance(target, Address):
        able = SCHEMES[target.scheme].can_score and dict(target.options).get("can_score", True)
    else:
        able = target.info.can_score
    if not able:
        name = str(target) if isinstance(target, Address) else target.info.name
        can = ", ".join(f"{s.name}:" for s in SCHEMES.values() if s.can_score)
        reason = "" if isinstance(target, Address) else target.info.no_score_reason
        raise CannotScore(
            f"{name} cannot score a given text, so it cannot be the target{reason and f' ({reason})'}",
            f"use it as draft; targets: {can}",
        )
