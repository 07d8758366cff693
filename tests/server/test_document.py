"""The OpenAPI document and the server agree, whatever a client makes of the document."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from a1agent import A1
from a1agent.server import ServerSettings, create_app
from tests.doubles import sums_pair

CAPS = ServerSettings(max_seconds=5, max_chains=4, max_turns=4, max_tokens=200, max_n=2, allowed_hosts=("testserver",))
APP = create_app(A1(*sums_pair(), calibration=None, min_step_tokens=0, chains=2, turns=3), CAPS)
DOCUMENT = schemathesis.openapi.from_asgi("/openapi.json", APP)

UNTRUE_HERE = [
    not_a_server_error,  # a model that does not keep to a format is one; any other is looked for below
    checks.positive_data_acceptance,  # no schema knows the operator's caps, or what makes a question
    checks.unsupported_method,  # a body that is no JSON is refused before its address is looked at
]


def answerable(body: Any) -> Any:
    """A body that the document allows, without what no schema forbids: else nearly nothing would be answered."""
    if not isinstance(body, dict):
        return body
    body |= {"model": "a1"}
    if "max_completion_tokens" in body:
        body.pop("max_tokens", None)
    if body.get("input") == "":
        body["input"] = "1 + 1"
    if not body.get("stream"):
        body.pop("stream_options", None)
    return body


@DOCUMENT.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_made_from_the_document_is_answered_as_it_says(case: schemathesis.Case) -> None:
    if case.meta is not None and case.meta.generation.mode.is_positive:
        case.body = answerable(case.body)
    answer = case.call()
    assert answer.status_code < 500, answer.text
    case.validate_response(answer, excluded_checks=UNTRUE_HERE)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_every_status_of_a_call_is_in_the_document(path: str) -> None:
    told = APP.openapi()["paths"][path]["post"]["responses"]
    assert {int(status) for status in told} == {200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 503}
    assert set(told["200"]["content"]) == {"application/json", "text/event-stream"}
    assert told["200"]["content"]["application/json"]["schema"]["$ref"].endswith(("Completion", "ResponseObject"))
