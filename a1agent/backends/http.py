"""The client that backends on servers share: an HTTP connection pool, retries, time limits, and what errors mean.

Everything runs in one event loop in a thread of its own, so that callers in any loop share its connections. A call is
tried again when the connection fails, breaks off or is silent for too long, when the server is full (429, with
`Retry-After`) or away (502, 503, 504), and when its reply is damaged. A call changes nothing on the server, and the
text of a chain only grows once a call has ended: trying again never doubles a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, TypeVar, cast

import httpx2

from a1agent.backends.loop_thread import LoopThread
from a1agent.backends.replicas import Replica, Replicas
from a1agent.backends.retries import BadReply, Retryable, Unreachable, given_up, retrying, retrying_start
from a1agent.backends.server_options import ServerOptions
from a1agent.errors import A1Error, BackendError, ContextOverflow, InvalidOption, ModelNotFound

__all__ = ["Http", "Line", "NotOffered", "Refused"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_AGAIN = (429, 502, 503, 504)
_IDLE_S = 3.0  # vLLM and SGLang close a connection that is idle for 5 s: one used just then would break
_SHARE = 16  # connections to a pool: at each request and at its end a pool looks at every connection it has
_RANK_HEADER = "X-Data-Parallel-Rank"  # vLLM's
_FULL = re.compile(r"queue is full", re.I)  # SGLang says so with status 503
_TOO_LONG = re.compile(
    r"context.?length|context.?size|max_model_len|too long|longer than|exceed\w* .*(context|token)", re.I
)

_NO_MODEL = re.compile(
    r"\bmodel\s+(?:\S+\s+)?(?:(?:was|is|could)\s+)?(?:not\s+(?:be\s+)?(?:found|available)|does\s*n[o']t\s+exist)"
    r"|\b(?:no|unknown)\s+(?:such\s+)?model\b|model_not_(?:found|available)",
    re.I,
)
"""How servers say that they have no such model, in words or as a code; a path that they lack may name models too."""
_ELSEWHERE = "check the address, and the model's name at /v1/models"
_UP_HINT = "is the server up? vLLM and SGLang do not listen while they load: ?reach_s=300 waits for that at the start"


class Refused(BackendError):
    """The server does not take a field of a request, or its value."""


class NotOffered(BackendError):
    """The server has no such path."""


class Line:
    """A replica to ask, for one attempt at a call of one chain."""

    def __init__(self, http: Http, replica: Replica, session: str | None) -> None:
        self._http = http
        self._options = http.options
        self._client = http.client(session)
        self._replica = replica
        self.rank = replica.rank
        """The engine of a data-parallel server that the call is for, or None."""
        self._headers = {} if session is None else {http.options.session_header: session}
        if replica.rank is not None:
            self._headers[_RANK_HEADER] = str(replica.rank)

    @property
    def url(self) -> str:
        """Where it leads."""
        return self._replica.url

    async def get(self, path: str) -> Any:
        """The JSON at a path."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a path replies. Raises `Retryable`, `BackendError`, `ContextOverflow`."""
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        url = self._replica.url + path
        with self._mapped():
            async with asyncio.timeout(self._options.first_token_s):
                response = await self._client.request(method, url, json=body, headers=self._headers)
        self._check(response)
        found = self._read(response.text)
        self._check_said(found, response.text, 500)
        return found

    async def events(self, path: str, body: Mapping[str, Any], unsaid: int = 503) -> AsyncGenerator[dict[str, Any]]:
        """The JSON of each server-sent event; closing the generator closes the request. Raises as `post`.

        `unsaid`: the status of an error in the stream that names none.
        """
        url = self._replica.url + path
        async with contextlib.AsyncExitStack() as stack:
            with self._mapped():
                async with asyncio.timeout(self._options.first_token_s):
                    stream = self._client.sse(url, method="POST", json=body, headers=self._headers)
                    source = await stack.enter_async_context(stream)
                    streams = _streams(source.response)
                    if not streams:
                        await source.response.aread()
            if not streams:
                raise self._unstreamed(source.response, unsaid)
            events, limit = aiter(source), self._options.first_token_s
            while True:
                with self._mapped():
                    async with asyncio.timeout(limit):
                        event = await anext(events, None)
                if event is None:
                    return
                # Those without data keep the connection alive; it is used again only when it was read to its end.
                if event.data not in ("", "[DONE]"):
                    yield self._event(event.data, unsaid)
                limit = self._options.between_tokens_s

    def _event(self, data: str, unsaid: int) -> dict[str, Any]:
        event = self._read(data)
        if not isinstance(event, dict):
            raise BadReply(f"{self._replica.url} streamed something that is no object")
        self._check_said(event, data, unsaid)
        return cast("dict[str, Any]", event)

    def _unstreamed(self, response: httpx2.Response, unsaid: int) -> A1Error:
        """What it means that a server answered otherwise than with a stream."""
        self._check(response)
        with contextlib.suppress(BadReply):
            self._check_said(self._read(response.text), response.text, unsaid)
        kind = response.headers.get("content-type", "nothing")
        return BadReply(f"{self._replica.url} sent {kind} where a stream was asked for", "see the server's log")

    def _check_said(self, found: Any, text: str, unsaid: int) -> None:
        """Raises what a reply says went wrong; some servers and gateways say so with status 200."""
        error = cast("dict[str, Any]", found).get("error") if isinstance(found, dict) else None
        if error:
            raise self.failure(_status_of(error, _message(text), unsaid), text)

    def _read(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            if text.lstrip().startswith("<"):
                hint = "is this the address of a model server?"
                raise BadReply(f"{self._replica.url} sent a web page", hint) from None
            raise BadReply(f"{self._replica.url} sent damaged JSON", str(error)) from None

    def _check(self, response: httpx2.Response) -> None:
        if not response.is_success:
            raise self.failure(response.status_code, response.text, response.headers)

    def failure(self, status: int, body: str, headers: Mapping[str, str] = MappingProxyType({})) -> A1Error:
        """What a reply with an error status means, or an error that a server puts into a reply."""
        hidden = self._http.hidden
        told = {name.lower(): hidden(value) for name, value in headers.items()}
        return _failure(self._replica.url, status, hidden(body), told)

    @contextlib.contextmanager
    def _mapped(self) -> Generator[None]:
        """Translates the errors of the HTTP library."""
        url = self._replica.url
        try:
            yield
        except httpx2.ConnectError as error:
            if (hint := _tls_hint(error)) is not None:
                raise BackendError(f"no trusted connection to {url}: {error}", hint) from error
            raise Unreachable(f"{url} does not accept connections: {error}", _UP_HINT) from error
        except httpx2.ConnectTimeout as error:
            what = f"{url} does not answer when a connection is asked for"
            raise Unreachable(what, "is the address right? if it is only slow, raise connect_s") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            hint = "raise first_token_s or between_tokens_s if it is only slow"
            raise Retryable(f"{url} was silent for too long", hint) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            reason = str(error) or type(error).__name__
            raise Retryable(f"the connection to {url} broke: {reason}", "see the server's log") from error
        except httpx2.HTTPError as error:
            raise BackendError(f"the request to {url} failed: {error}", "see the server's log") from error


class Http:
    """The connections to the replicas of one model. Close it with `close`."""

    def __init__(self, urls: tuple[str, ...], options: ServerOptions) -> None:
        self.options = options
        self._key = options.key()
        count = math.ceil(options.max_connections * len(urls) * options.data_parallel / _SHARE)
        self._clients = _pools(count, options, {"Authorization": f"Bearer {self._key}"} if self._key else {})
        self.replicas = Replicas(
            urls, options.max_connections, options.cooldown_s, options.patience_s, options.data_parallel
        )
        self.thread = LoopThread()

    def __str__(self) -> str:
        return self.replicas.names

    def client(self, session: str | None) -> httpx2.AsyncClient:
        """The pool that the requests of a chain go through."""
        return self._clients[hash(session) % len(self._clients)]

    def ask_singly(self) -> None:
        """From now on one request is under way at a time, a replica."""
        self.options = replace(self.options, max_connections=1)
        self.replicas.ask_singly()

    def hidden(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self._key, "***") if self._key else text

    async def call(self, attempt: Callable[[Line], Awaitable[T]], session: str | None = None) -> T:
        """What `attempt` returns, tried again after a `Retryable`. Of the pool's own loop.

        Raises `BackendError` when the attempts are used up, or at once while all replicas are known to be away.
        """
        with given_up():
            return await retrying(self.options)(self._once, attempt, session)

    async def _once(self, attempt: Callable[[Line], Awaitable[T]], session: str | None) -> T:
        replica = self.replicas.pick(session)
        async with replica.slots:
            try:
                result = await attempt(Line(self, replica, session))
            except Retryable as error:
                if error.fault:
                    self.replicas.failed(replica)
                raise
            self.replicas.worked(replica)
            return result

    async def each(self, attempt: Callable[[Line], Awaitable[T]]) -> list[T]:
        """What `attempt` returns of every replica, in order, waiting for those that are not ready yet.

        Raises what one of them raises, and `BackendError` when it is not ready in time.
        """

        async def ask(replica: Replica) -> T:
            return await attempt(Line(self, replica, None))

        with given_up():
            return [await retrying_start(self.options)(ask, replica) for replica in self.replicas.all]

    def close(self) -> None:
        """Cancels what runs and closes the connections. Blocks: not for coroutines."""
        self.thread.stop(self._aclose)

    async def _aclose(self) -> None:
        for client in self._clients:
            await client.aclose()


def _failure(url: str, status: int, body: str, headers: Mapping[str, str]) -> A1Error:
    said = _message(body)
    if status in _AGAIN:
        after = _seconds(headers.get("retry-after"))
        full = status == 429 or _FULL.search(said) is not None
        what = f"{url} is full" if full else f"{url} is not ready ({status})"
        hint = "lower max_connections" if full else "see its log; retries and patience_s say how long it is waited for"
        return Retryable(f"{what}: {said}", hint, retry_after=after, fault=not full)
    if 300 <= status < 400:
        where = headers.get("location", "another address").partition("?")[0]
        return BackendError(f"{url} redirects to {where}", "write the address that it redirects to")
    if status in (401, 403):
        return BackendError(f"{url} refuses the key ({status})", "set it in the environment: ?api_key_env=NAME")
    if status in (404, 405) and _NO_MODEL.search(body):
        return ModelNotFound(f"{url}: {said}", "see which models the server offers at /v1/models")
    if status in (404, 405, 501):
        return NotOffered(f"{url} does not offer this ({status}): {said}", _ELSEWHERE)
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return ContextOverflow(f"{url}: {said}", "lower the number of turns or the step length")
    kind = Refused if status in (400, 422) else BackendError
    return kind(f"{url} failed ({status}): {said}", "see the server's log")


def _streams(response: httpx2.Response) -> bool:
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.is_success and kind.strip().lower() == "text/event-stream"


def _message(body: str) -> str:
    """What an error body says, at most 300 characters of it."""
    with contextlib.suppress(ValueError):
        found: Any = json.loads(body)
        for key in ("error", "message", "detail"):
            if isinstance(found, dict):
                found = cast("dict[str, Any]", found).get(key, cast("Any", found))
        body = found if isinstance(found, str) else json.dumps(found)
    return body.strip()[:300] or "no reason given"


def _status_of(error: Any, said: str, unsaid: int) -> int:
    code = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 400 if _TOO_LONG.search(said) else unsaid


def _seconds(after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date."""
    if after is None:
        return None
    try:
        return max(0.0, float(after))
    except ValueError:
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, (parsedate_to_datetime(after) - datetime.now(UTC)).total_seconds())
    return None


def _pools(count: int, options: ServerOptions, headers: dict[str, str]) -> list[httpx2.AsyncClient]:
    trusted = _trusted(options.verify)
    try:
        return [
            httpx2.AsyncClient(
                headers=headers,
                verify=trusted,
                timeout=httpx2.Timeout(None, connect=options.connect_s),
                limits=httpx2.Limits(max_connections=None, keepalive_expiry=_IDLE_S),
            )
            for _ in range(count)
        ]
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        what = f"the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names cannot be used: {error}"
        raise InvalidOption(what, "correct or unset it") from error


def _trusted(verify: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=verify) if verify else httpx2.create_ssl_context()
    except (ssl.SSLError, OSError) as error:
        named = repr(verify) if verify else "what SSL_CERT_FILE or SSL_CERT_DIR names"
        raise InvalidOption(f"{named} holds no certificates: {error}", "name a PEM file") from error


def _tls_hint(error: BaseException | None) -> str | None:
    """What to do about a connection that failed over encryption; None for one that failed otherwise."""
    while error is not None:
        if "CERTIFICATE" in str(error):
            return "if its certificate is your own, name it: ?verify=FILE"
        if isinstance(error, ssl.SSLError) or "SSL" in str(error):
            return "does the server speak https? if not, write http://"
        error = error.__cause__ or error.__context__
    return None
