"""The agents behind the chat models: one for each pair of models and calibration, shared by all who name the same."""

from __future__ import annotations

import os
import threading
from collections.abc import MutableMapping
from weakref import WeakValueDictionary

from a1agent import A1
from a1agent.backends.base import Backend

__all__ = ["Held", "forget", "shared_agent"]

Model = str | Backend
_Key = tuple[object, object, str | None]

_agents: MutableMapping[_Key, A1] = {}
_of_backends: MutableMapping[_Key, A1] = WeakValueDictionary()
"""Agents of two backends hold nothing that they would have to give back: they live as long as somebody uses them."""
_lock = threading.Lock()


class Held(dict[tuple[int, int], A1]):
    """Agents that a chat model keeps alive, by the ids of their backends. Its copies hold none: they find their own."""

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        return Held, ()


def shared_agent(draft: Model, target: Model, calibration: str | None) -> A1:
    """The agent of these models, made on first use. Raises what `A1` raises for models that cannot work."""
    key, agents = _key(draft, target, calibration), _kept(draft, target)
    with _lock:
        agent = agents.get(key)
        if agent is None:
            agent = agents[key] = A1(draft, target, calibration=calibration)
        return agent


def forget(draft: Model, target: Model, calibration: str | None) -> A1 | None:
    """Takes the agent of these models out, for the caller to close; None when there is none."""
    with _lock:
        return _kept(draft, target).pop(_key(draft, target, calibration), None)


def _kept(draft: Model, target: Model) -> MutableMapping[_Key, A1]:
    return _agents if isinstance(draft, str) or isinstance(target, str) else _of_backends


def _key(draft: Model, target: Model, calibration: str | None) -> _Key:
    # A backend is known by itself: the agent holds it, so its id is not given to another meanwhile.
    first, second = (model if isinstance(model, str) else id(model) for model in (draft, target))
    return first, second, calibration


def _begin_anew() -> None:
    """In a forked process: models of addresses are loaded anew, for those that are loaded stayed in the parent."""
    global _agents, _lock
    _agents, _lock = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
