"""Loads llama-cpp-python on first use, with its log silenced. The package has no types that help: it is `Any` here."""

from __future__ import annotations

import ctypes
import importlib
import logging
import re
import threading
from typing import Any

from a1agent.errors import MissingExtra, ModelLoadError

__all__ = ["LLAMA_LOG", "first_error", "forget_errors", "last_error", "llama_api"]

LLAMA_LOG = "a1agent.llama_cpp"
"""The logger of what llama.cpp itself says."""

_log = logging.getLogger(LLAMA_LOG)
_lock = threading.Lock()
_state: dict[str, Any] = {}
_errors: list[str] = []
_ERROR_LEVEL = 4
_MOST_ERRORS = 8
_SPEAKER = re.compile(r"^\w+: (error loading model: )?")


def llama_api(verbose: bool = False) -> Any:
    """The module of llama.cpp's C functions. Raises `MissingExtra` when llama-cpp-python is not installed."""
    with _lock:
        if "api" not in _state:
            _state["api"] = _load()
        if verbose:
            _state["verbose"] = True
        return _state["api"]


def forget_errors() -> None:
    """What llama.cpp complains of from now on has to do with what is about to be done."""
    _errors.clear()


def first_error() -> str:
    """The first complaint since `forget_errors`, which those after it follow from; empty without one."""
    return _errors[0] if _errors else ""


def last_error() -> str:
    """The last complaint; empty without one."""
    return _errors[-1] if _errors else ""


def _load() -> Any:
    try:
        api = importlib.import_module("llama_cpp.llama_cpp")
    except ModuleNotFoundError as error:
        raise MissingExtra("a model in llama.cpp", "llama-cpp") from error
    except (OSError, RuntimeError) as error:
        hint = "reinstall it with: pip install --force-reinstall llama-cpp-python"
        raise ModelLoadError(f"llama-cpp-python does not load: {error}", hint) from error
    api.llama_backend_init()
    _state["callback"] = api.llama_log_callback(_on_log)  # kept: the C side calls it for as long as the process lives
    api.llama_log_set(_state["callback"], ctypes.c_void_p(0))
    return api


def _on_log(level: int, text: bytes, _data: Any) -> None:
    line = text.decode(errors="replace").rstrip()
    if level == _ERROR_LEVEL and line:
        del _errors[_MOST_ERRORS - 1 : -1]  # the first and the newest are told
        _errors.append(_SPEAKER.sub("", line))
    if _state.get("verbose") and line:
        _log.warning("%s", line)
