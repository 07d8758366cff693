"""Loads llama-cpp-python on first use, with its log silenced. The package has no types that help: it is `Any` here."""

from __future__ import annotations

import ctypes
import importlib
import logging
import threading
from typing import Any

from a1agent.errors import MissingExtra, ModelLoadError

__all__ = ["llama_api", "log_lines"]

_log = logging.getLogger("a1agent.llama_cpp")
_lock = threading.Lock()
_state: dict[str, Any] = {}
_recent: list[str] = []


def llama_api(verbose: bool = False) -> Any:
    """The module of llama.cpp's C functions. Raises `MissingExtra` when llama-cpp-python is not installed."""
    with _lock:
        if "api" not in _state:
            _state["api"] = _load()
        if verbose:
            _state["verbose"] = True
        return _state["api"]


def log_lines() -> str:
    """The last complaint of llama.cpp: what an error message of ours should repeat."""
    return _recent[-1] if _recent else ""


def _load() -> Any:
    try:
        api = importlib.import_module("llama_cpp.llama_cpp")
    except ModuleNotFoundError as error:
        raise MissingExtra("llama.cpp models", "llama-cpp") from error
    except (OSError, RuntimeError) as error:
        hint = "reinstall it with: pip install --force-reinstall llama-cpp-python"
        raise ModelLoadError(f"llama-cpp-python does not load: {error}", hint) from error
    api.llama_backend_init()
    _state["callback"] = api.llama_log_callback(_on_log)  # kept: the C side calls it for as long as the process lives
    api.llama_log_set(_state["callback"], ctypes.c_void_p(0))
    return api


def _on_log(level: int, text: bytes, _data: Any) -> None:
    line = text.decode(errors="replace").rstrip()
    if level == 3 and line:
        del _recent[:-7]
        _recent.append(line)
    if _state.get("verbose") and line:
        _log.warning("%s", line)
