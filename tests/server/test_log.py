"""The log: one line a request, which never repeats what a client or a model wrote."""

import io
import json
import logging
import random
from dataclasses import dataclass
from typing import Any

import pytest

from a1agent import A1
from a1agent.backends.scripted import ScriptedBackend
from a1agent.server import Keys, ServerSettings, create_app, logs
from tests.doubles import Fixed, sums_pair
from tests.server.serving import KEY, SUM, in_process

pytestmark = pytest.mark.anyio

MARK = "A-SECRET-THAT-NO-LOG-HOLDS"
CHAT = "/v1/chat/completions"
ASKED: Any = {"model": "a1", "messages": [{"role": "user", "content": f"{MARK}: {SUM}"}]}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def calling(arguments: str) -> list[Any]:
    """A conversation in which a tool was called."""
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    return [*ASKED["messages"], {"role": "assistant", "tool_calls": [call]}]


def schema(holding: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": holding}}


def nested(levels: int) -> dict[str, Any]:
    return {"items": nested(levels - 1)} if levels else {"const": MARK}


def tool(parameters: dict[str, Any]) -> list[Any]:
    return [{"type": "function", "function": {"name": "add", "parameters": parameters}}]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What `a1 serve` would write to stderr."""
    written = io.StringIO()
    for name in ("a1agent", "a1agent.server", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "handlers", [])
        monkeypatch.setattr(logger, "level", logger.level)
        monkeypatch.setattr(logger, "propagate", logger.propagate)
    logs.configure(written)
    return written


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": MARK}, 404, "model_not_found", "model"),
        ({"model": MARK * 20}, 400, "invalid_value", "model"),
        ({"tools": [ADD]}, 400, "invalid_value", "tools"),
        ({"tool_choice": MARK}, 400, "invalid_value", "tool_choice"),
        ({"tool_choice": "required"}, 400, "invalid_value", "tool_choice"),
        ({"temperature": MARK}, 400, "invalid_value", "temperature"),
        ({"a1": {"vote": MARK}}, 400, "invalid_value", "a1.vote"),
        ({"service_tier": MARK}, 400, "unsupported_parameter", "service_tier"),
    ],
    ids=["model", "long-model", "tools", "choice", "no-tools", "number", "a1", "refused"],
)
async def test_a_refusal_is_one_line_without_what_was_asked(
    path: str, fields: Any, status: int, code: str, param: str, log: io.StringIO
) -> None:
    if path == CHAT:
        asked = ASKED | fields
    else:
        asked = {"model": "a1", "input": f"{MARK}: {SUM}"} | fields
        asked["tools"] = [{"type": "function", **each["function"]} for each in fields.get("tools", [])]
    await refused(path, asked, status, code, param, log)


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"messages": calling("{" + MARK)}, 400, "invalid_value", "messages"),
        ({"messages": calling(json.dumps([MARK]))}, 400, "invalid_value", "messages"),
        ({"messages": calling('{"a":' * 500 + f'"{MARK}"' + "}" * 500)}, 400, "invalid_value", "messages"),
        ({"messages": calling('{"a":' * 20_000 + f'"{MARK}"' + "}" * 20_000)}, 400, "invalid_value", "messages"),
        ({"messages": calling(json.dumps({MARK: "\ud800"}))}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": MARK, "content": MARK}]}, 400, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": MARK}]}]}, 400, "invalid_value", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": f"{MARK} " * 4000}]},
            400,
            "context_length_exceeded",
            "messages",
        ),
        ({"tools": tool({"type": MARK})}, 400, "invalid_value", "tools"),
        ({"tools": tool({"$ref": f"#/{MARK}"})}, 400, "invalid_value", "tools"),
        ({"response_format": schema({"type": MARK})}, 400, "invalid_value", "response_format"),
        ({"response_format": schema({"$ref": f"#/{MARK}"})}, 400, "invalid_value", "response_format"),
        ({"response_format": schema(nested(400))}, 400, "invalid_value", "response_format"),
        ({"tools": tool(nested(400))}, 400, "invalid_value", "tools"),
        ({"stop": [MARK, ""]}, 400, "invalid_value", "stop"),
        ({"response_format": schema({"required": [MARK]})}, 422, "invalid_answer", None),
    ],
    ids=[
        "cut-arguments",
        "strange-arguments",
        "deep-arguments",
        "deeper-arguments",
        "arguments-that-are-no-unicode",
        "role",
        "part",
        "too-long",
        "tool-schema",
        "tool-reference",
        "schema",
        "reference",
        "deep-schema",
        "deep-tool-schema",
        "stop",
        "no-answer",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_one_line_without_prompt_schema_or_answer(
    fields: Any, status: int, code: str, param: str | None, stream: bool, log: io.StringIO
) -> None:
    await refused(CHAT, ASKED | fields | {"stream": stream}, status, code, param, log)


async def refused(path: str, asked: Any, status: int, code: str, param: str | None, log: io.StringIO) -> None:
    """What answers with JSON: the client is told why, the log is not."""
    backend = ScriptedBackend(Fixed(f'{{"said": "{MARK}"}}'))
    async with A1(backend, backend, calibration=None) as agent, in_process(agent) as client:
        answer = await client.post(path, json=asked)
    (line,) = lines(log)
    if answer.headers["content-type"] == "application/json":
        error = answer.json()["error"]
        assert (answer.status_code, line["status"]) == (status, status)
    else:  # a stream that had begun
        error = json.loads(answer.text.strip().splitlines()[-1].removeprefix("data: "))["error"]
    assert (error["code"], error["param"]) == (line["code"], line.get("param")) == (code, param)
    assert error["type"] == line["type"] and line["id"] == answer.headers["x-request-id"]
    assert MARK not in log.getvalue() and len(error["message"]) < 1000


@dataclass(frozen=True)
class Telling:
    """A model whose failures repeat the prompt, as those of servers do."""

    def write(self, prompt: str, text: str, rng: random.Random) -> str:
        raise ValueError(f"cannot go on after {prompt!r}")

    def nll(self, prompt: str, text: str, step: str) -> float:
        return 1.0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_fails_over_a_prompt_does_not_put_it_into_the_log(stream: bool, log: io.StringIO) -> None:
    async with A1(ScriptedBackend(Telling()), sums_pair()[1], calibration=None) as agent, in_process(agent) as client:
        answer = await client.post(CHAT, json=ASKED | {"stream": stream})
    (line,) = lines(log)
    assert MARK not in log.getvalue()
    assert (line["code"], line["cause"], line["id"]) == ("call_failed", "SolveError", answer.headers["x-request-id"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_of_the_server_is_logged_with_its_place_and_kind_only(
    stream: bool, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty(question: Any, **_: Any) -> Any:
        raise LookupError(f"a fault over {question}")
        yield

    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        monkeypatch.setattr(agent, "astream", faulty)
        answer = await client.post(CHAT, json=ASKED | {"stream": stream})
    (line,) = lines(log)
    assert MARK not in log.getvalue() and MARK not in answer.text
    assert (answer.status_code, line["code"], line["cause"]) == (500, "internal_error", "LookupError")
    assert "in faulty" in line["traceback"]


async def test_a_route_that_fails_is_answered_in_openais_shape_and_logged_once(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with A1(*sums_pair(), calibration=None) as agent:
        app = create_app(agent, ServerSettings())

        def faulty(name: str) -> None:
            raise LookupError(f"a fault over {name}")

        monkeypatch.setattr(app.state.service, "check_model", faulty)
        answer = await in_process(agent, app=app).get(f"/v1/models/{MARK}")
    (line,) = lines(log)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "in faulty" in line["traceback"] and MARK not in log.getvalue()


@pytest.mark.parametrize("address", [f"/v1/models/{MARK}", f"/v1/models/{MARK}/{MARK}"])
async def test_a_model_that_is_asked_for_by_address_is_not_in_the_log(address: str, log: io.StringIO) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        assert (await client.get(address)).status_code == 404
    (line,) = lines(log)
    assert line["path"] == "/v1/models/{name:path}" and MARK not in log.getvalue()


async def test_an_address_that_is_none_is_logged_short_and_in_one_line(log: io.StringIO) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent) as client:
        await client.get("/nope%0a%1b[31m" + "x" * 5000)
    (line,) = lines(log)
    assert line["path"].startswith("/nope??[31mxxx") and len(line["path"]) == 64


async def test_a_request_without_a_valid_key_is_one_line(log: io.StringIO) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent, keys=Keys({"ann": KEY})) as client:
        await client.post(CHAT, json=ASKED, headers={"authorization": f"Bearer {MARK}"})
    (line,) = lines(log)
    assert (line["status"], line["code"], line["level"]) == (401, "invalid_api_key", "info")
    assert MARK not in log.getvalue()


async def test_with_prompts_in_the_log_messages_of_errors_are_there_too(log: io.StringIO) -> None:
    async with A1(*sums_pair(), calibration=None) as agent, in_process(agent, log_prompts=True) as client:
        answer = await client.post(CHAT, json=ASKED | {"messages": calling("{" + MARK)})
    body, line = lines(log)
    assert MARK in body["body"]
    assert line["error"] == answer.json()["error"]["message"]


async def test_warnings_of_backends_are_lines_of_the_same_log(log: io.StringIO) -> None:
    logging.getLogger("a1agent.backends.llama_grammar").warning("no grammar for %s", "it")
    (line,) = lines(log)
    assert (line["level"], line["event"]) == ("warning", "no grammar for it")
