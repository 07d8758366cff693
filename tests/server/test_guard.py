"""Who may come in, and with what."""

import asyncio
import json
import logging
import math
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from a1agent import A1, InvalidOption, UsageError
from a1agent.server import Keys, ServerSettings, read_keys
from a1agent.server.run import announced, bind, opened_here
from tests.doubles import sums_pair
from tests.server.serving import KEY, SUM, in_process, posted, serving

pytestmark = pytest.mark.anyio

ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": SUM}]}
CHAT = "/v1/chat/completions"


async def ask(headers: dict[str, str] | None = None, content: bytes | None = None, **settings: Any) -> Any:
    body = json.dumps(ASKED).encode() if content is None else content
    given = {"content-type": "application/json"} | (headers or {})
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent, **settings) as client:
        return await client.post(CHAT, content=body, headers=given)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "[::1]", "192.168.1.7"])
async def test_names_and_addresses_of_this_machine_are_hosts(host: str) -> None:
    assert (await ask({"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "a:b:c", "127.0.0.1.nip.io", "[::1"])
async def test_a_foreign_name_is_no_host(host: str) -> None:
    answer = await ask({"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unknown_host")


async def test_the_operator_can_allow_a_host() -> None:
    assert (await ask({"host": "a1.example"}, allowed_hosts=("A1.example",))).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://localhost.evil.example"]
)
async def test_a_page_of_another_site_may_not_call(origin: str) -> None:
    answer = await ask({"origin": origin})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_origin")
    assert "access-control-allow-origin" not in answer.headers


async def test_the_own_page_may_call_and_allowed_sites_get_cors() -> None:
    assert (await ask({"origin": "http://localhost"})).status_code == 200
    answer = await ask({"origin": "https://ui.example"}, allowed_origins=("https://ui.example",))
    assert answer.headers["access-control-allow-origin"] == "https://ui.example"


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-os, x-stainless-retry-count",
}


async def test_a_browser_may_ask_whether_it_may_call() -> None:
    site, keys = "https://ui.example", Keys({"ann": KEY})
    async with serving(allowed_origins=(site,), keys=keys) as running, running.http() as client:
        asked = await client.options(CHAT, headers=PREFLIGHT | {"origin": site})  # which browsers do without a key
        refused = await client.options(CHAT, headers=PREFLIGHT | {"origin": "https://evil.example"})
        late = await client.post(CHAT, json=ASKED, headers={"origin": site})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, site)
    assert {"GET", "POST"} <= set(asked.headers["access-control-allow-methods"].split(", "))
    for name in PREFLIGHT["access-control-request-headers"].split(", "):
        assert name in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
    # what the guard itself refuses can be read by the page too
    assert (late.status_code, late.headers["access-control-allow-origin"]) == (401, site)


async def test_without_allowed_sites_there_is_no_cors() -> None:
    async with serving() as running, running.http() as client:
        answer = await client.options(CHAT, headers=PREFLIGHT | {"origin": running.url})
        own = await client.post(CHAT, json=ASKED, headers={"origin": running.url})
    assert answer.status_code == 405 and own.status_code == 200
    assert not [name for name in (*answer.headers, *own.headers) if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"host": "evil.example"}, 403, "unknown_host"),
        ({"host": None}, 400, None),
        ({"origin": "http://evil.example"}, 403, "forbidden_origin"),
        ({"origin": "null"}, 403, "forbidden_origin"),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content-type": None}, 415, "unsupported_media_type"),
        ({"authorization": None}, 401, "invalid_api_key"),
        ({"authorization": "Bearer x"}, 401, "invalid_api_key"),
        ({}, 200, None),
    ],
    ids=str,
)
async def test_the_guard_stands_at_the_socket(headers: dict[str, Any], status: int, code: str | None) -> None:
    given = {"authorization": f"Bearer {KEY}", "connection": "close"} | headers
    async with serving(keys=Keys({"ann": KEY})) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(posted(json.dumps(ASKED).encode(), **given))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert int(answer.split()[1]) == status
    if code is not None:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_only_json_is_read(kind: str) -> None:
    answer = await ask({"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'"x"',
        b"null",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"seed": ' + b"9" * 5000,
    ],
    ids=["nothing", "cut", "not-utf8", "list", "number", "text", "null", "deep-lists", "deep-objects", "huge-number"],
)
async def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    answer = await ask(content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_text_that_is_no_unicode_is_refused() -> None:
    answer = await ask(content=b'{"model": "a1", "messages": [{"role": "user", "content": "\\ud800"}]}')
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["temperature", "top_p"])
async def test_numbers_json_does_not_have_are_refused(name: str) -> None:
    body = json.dumps(ASKED | {name: float("nan")}).encode()
    assert (await ask(content=body)).status_code == 400


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_numbers_that_no_answer_could_repeat_are_refused(number: str, stream: str) -> None:
    form = f'{{"type": "json_schema", "name": "x", "schema": {{"maximum": {number}}}}}'
    body = f'{{"model": "a1", "input": "x", "stream": {stream}, "text": {{"format": {form}}}}}'
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        answer = await client.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
    assert "not finite" in answer.json()["error"]["message"]


async def test_a_body_beyond_the_limit_is_refused_before_it_is_read() -> None:
    answer = await ask(content=b"x" * 2000, max_body_bytes=1000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_without_a_valid_key_nothing_is_told() -> None:
    keys = Keys({"ann": KEY, "bob": "b" * 20})
    for header in ({}, {"authorization": KEY}, {"authorization": "Bearer x"}, {"authorization": f"Basic {KEY}"}):
        answer = await ask(header, keys=keys)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await ask({"authorization": "Bearer " + "b" * 20}, keys=keys)).status_code == 200


async def test_only_health_and_the_page_are_open_without_a_key() -> None:
    keys = Keys({"ann": KEY})
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent, keys=keys) as client:
        answers = {
            path: (await client.get(path)).status_code for path in ("/healthz", "/metrics", "/v1/models", "/nope")
        }
    assert answers == {"/healthz": 200, "/metrics": 401, "/v1/models": 401, "/nope": 401}


@pytest.mark.parametrize(("keys", "told"), [(Keys(), "scripted:sums"), (Keys({"ann": KEY}), None)])
async def test_addresses_of_models_are_told_to_nobody_without_a_key_where_keys_are_needed(
    keys: Keys, told: str | None
) -> None:
    async with A1("scripted:sums", "scripted:sums", calibration=None) as agent, in_process(agent, keys=keys) as client:
        config = (await client.get("/page/config")).json()
    assert config["needs_key"] is bool(keys) and config["draft"] == config["target"] == told


async def test_what_is_not_there_is_told_in_openais_shape() -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        missing, wrong = await client.get("/v1/nope"), await client.get(CHAT)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


def test_keys_are_read_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may come in\nann = {KEY}  # she asked\n\n", encoding="utf-8")
    monkeypatch.setenv("A1_API_KEYS", f"bob={'b' * 20},carol={'c' * 20}")
    keys = read_keys(file)
    assert len(keys) == 3
    assert keys.name_of(f"Bearer {KEY}") == "ann" and keys.name_of(f"bearer {'c' * 20}") == "carol"


def test_a_number_sign_inside_a_key_belongs_to_it(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"ann={KEY}#and-more # she asked\n#bob={KEY}\n", encoding="utf-8")
    keys = read_keys(file)
    assert len(keys) == 1
    assert keys.name_of(f"Bearer {KEY}#and-more") == "ann" and keys.name_of(f"Bearer {KEY}") is None


@pytest.mark.parametrize("line", ["justakeyofsomelength", "ann=short", "a b=" + KEY, f"ann={KEY}\nann={KEY}"])
def test_a_line_that_is_no_key_is_refused_without_repeating_it(line: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(line, encoding="utf-8")
    with pytest.raises(InvalidOption) as caught:
        read_keys(file)
    assert KEY not in str(caught.value) and "justakey" not in str(caught.value)


def test_a_key_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_keys(tmp_path / "nowhere")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        bind(host, 0, ServerSettings())


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_with_a_key_others_may_reach_it(host: str) -> None:
    with bind(host, 0, ServerSettings(keys=Keys({"ann": KEY}))) as listener:
        assert listener.getsockname()[0] == host
        port = listener.getsockname()[1]
        assert opened_here(listener) == f"http://{'127.0.0.1' if host == '0.0.0.0' else '[::1]'}:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_needs_no_key(host: str) -> None:
    with bind(host, 0, ServerSettings()) as listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")
        assert opened_here(listener) == announced(listener)


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0, ServerSettings()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            bind("localhost", port, ServerSettings())


def test_on_windows_no_other_process_listens_at_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)  # one that can be read here
    with bind("127.0.0.1", 0, ServerSettings()) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.parametrize(
    "values",
    [
        {"running": 0},
        {"max_seconds": 0},
        {"max_seconds": math.nan},
        {"grace_s": math.inf},
        {"waiting": -1},
        {"name": "a b"},
        {"allowed_origins": ("*",)},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(values: Any) -> None:
    with pytest.raises(InvalidOption):
        ServerSettings(**values)


async def test_the_log_has_ids_keys_names_and_counts_but_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "a1agent.server")
    secret = "a prompt nobody else reads"
    messages: Any = [{"role": "user", "content": secret}]
    async with serving(keys=Keys({"ann": KEY})) as running, running.client() as client:
        answer = await client.chat.completions.with_raw_response.create(
            model="a1", messages=messages, user="u7", extra_headers={"x-request-id": "mine-1"}
        )
    assert answer.headers["x-request-id"] == "mine-1"
    line = next(r.fields for r in caplog.records if r.getMessage() == "request")  # type: ignore[attr-defined]
    assert (line["id"], line["key"], line["user"], line["status"]) == ("mine-1", "ann", "u7", 200)
    assert line["output_tokens"] > 0
    assert all(secret not in str(vars(record)) and KEY not in str(vars(record)) for record in caplog.records)


async def test_the_log_names_what_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "a1agent.server")
    await ask(content=b"{")
    lines = [r.fields for r in caplog.records if r.getMessage() == "request"]  # type: ignore[attr-defined]
    assert [(line["status"], line["code"]) for line in lines] == [(400, "bad_json")]
