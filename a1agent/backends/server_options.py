"""Options of models on servers, and what an address of one must look like."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from a1agent.backends.chat_options import CHAT_CHOICES, CHAT_OPTIONS, ChatOptions
from a1agent.backends.options import check_names, check_values
from a1agent.errors import InvalidOption

__all__ = ["OPTIONS", "ServerAddress", "ServerOptions"]

OPTIONS: dict[str, tuple[type, str]] = {
    "tokenizer": (str, "where the model's tokenizer is: a .gguf, a tokenizer.json, a folder or hub name with one"),
    "context_length": (int, "most tokens of one sequence; 0: what the server says"),
    **CHAT_OPTIONS,
    "api_key_env": (str, "name of the environment variable that holds the server's key"),
    "verify": (str, "a file of certificates to trust instead of the system's"),
    "max_connections": (int, "most requests under way at once, a replica or engine of one"),
    "retries": (int, "how often a call is tried again when the server fails or asks to wait"),
    "retry_wait_s": (float, "seconds before the first retry; doubled each time, plus chance"),
    "connect_s": (float, "seconds a connection may take"),
    "first_token_s": (float, "seconds until the first token, or until a score"),
    "between_tokens_s": (float, "seconds between two tokens"),
    "stream_interval": (int, "tokens that vLLM or SGLang sends at a time; 0: the more, the more chains write at once"),
    "cooldown_s": (float, "seconds a failing replica is left alone before it is tried again"),
    "patience_s": (float, "seconds of nothing but failures after which calls fail at once and loading is given up"),
    "reach_s": (float, "seconds a server that does not listen is waited for at the start, as vLLM while it loads"),
    "data_parallel": (int, "engines behind one address, as of --data-parallel-size: each chain stays with one of them"),
    "session_header": (str, "header that names the chain, for routers that keep it on its replica; SGLang: its own"),
}

_LIMITS = {
    "context_length": (0, 2**24),
    "max_connections": (1, 4096),
    "retries": (0, 100),
    "stream_interval": (0, 64),
    "data_parallel": (1, 1024),
}

_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions(ChatOptions):
    """How to talk to a server; `OPTIONS` says what each means."""

    tokenizer: str = ""
    context_length: int = 0
    api_key_env: str = ""
    verify: str = ""
    max_connections: int = 64
    retries: int = 6
    retry_wait_s: float = 0.5
    connect_s: float = 10.0
    first_token_s: float = 300.0
    between_tokens_s: float = 60.0
    stream_interval: int = 0
    cooldown_s: float = 5.0
    patience_s: float = 30.0
    reach_s: float = 3.0
    data_parallel: int = 1
    session_header: str = "X-Session-ID"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ServerOptions:
        """Checked options. Raises `InvalidOption` for an unknown name (naming the nearest) or a value out of range."""
        check_names(options, OPTIONS, "served")
        checked = cls(**options)
        values = {field.name: getattr(checked, field.name) for field in fields(cls)}
        check_values(values, OPTIONS, _LIMITS, CHAT_CHOICES)
        for name, value in values.items():
            _check(name, value)
        if checked.stream_interval > 1 and not checked.tokenizer:
            what = f"stream_interval={checked.stream_interval} needs the model's tokenizer, to tell tokens apart"
            raise InvalidOption(what, "name it: ?tokenizer=PATH")
        return replace(checked, verify=str(Path(os.path.expanduser(checked.verify)))) if checked.verify else checked

    def key(self) -> str | None:
        """The server's key, from the environment. Raises `InvalidOption` where there is none that can be sent."""
        if not self.api_key_env:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise InvalidOption(
                f"the environment variable {self.api_key_env} holds no key", "export it, or drop api_key_env"
            )
        if not (key.isascii() and key.isprintable()):  # the errors of libraries would show it
            what = (
                f"the key in the environment variable {self.api_key_env} has a line break, or letters outside of ASCII"
            )
            raise InvalidOption(what, "export the key alone")
        return key


def _check(name: str, value: Any) -> None:
    kind, meaning = OPTIONS[name]
    if kind is float and not 0 < value < float("inf"):
        raise InvalidOption(f"{name}={value} is no positive number of seconds", meaning)
    if name == "session_header" and not _HEADER.fullmatch(value):
        raise InvalidOption(f"{name}={value!r} is no name of a header", meaning)
    if name == "verify" and value and not Path(os.path.expanduser(value)).is_file():
        raise InvalidOption(f"there is no file {value!r} of certificates", meaning)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """The `URL[,URL...][#MODEL]` of an address: its replicas, and the model's name there ("": the only one)."""

    urls: tuple[str, ...]
    model: str

    @classmethod
    def of(cls, path: str) -> ServerAddress:
        """The parts of a path. Raises `InvalidOption`; no message repeats what may be a secret."""
        urls, _, model = path.partition("#")
        return cls(tuple(_url(url.strip()) for url in urls.split(",")), model)


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port, secret = parts.hostname, parts.port, parts.username or parts.password
    except ValueError:
        raise InvalidOption("an address of a server is malformed", "write http://HOST:PORT#MODEL") from None
    if secret:
        hint = "put the key into an environment variable and name it: ?api_key_env=NAME"
        raise InvalidOption(f"the address of {host} holds a user name or password", hint)
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidOption(f"{url.partition('?')[0]!r} is no address of a server", "write http://HOST:PORT#MODEL")
    where = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{where}{f':{port}' if port else ''}{path}"
