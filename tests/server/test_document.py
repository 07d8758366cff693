"""The OpenAPI document and the server agree, whatever a client makes of the document."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi import checks

from a1agent import A1
from a1agent.server import ServerSettings, create_app
from tests.doubles import sums_pair

CAPS = ServerSettings(max_seconds=5, max_chains=4, max_turns=4, max_tokens=200, max_n=2, allowed_hosts=("testserver",))
APP = create_app(A1(*sums_pair(), calibration=None, min_step_tokens=0, chains=2, turns=3), CAPS)
DOCUMENT = schemathesis.openapi.from_asgi("/openapi.json", APP)

UNTRUE_HERE = [
    checks.positive_data_acceptance,  # no schema knows the operator's caps, the model's name, or what a question is
    checks.unsupported_method,  # a body that is no JSON is refused before its address is looked at
]


@DOCUMENT.hook
def map_body(context: Any, body: Any) -> Any:
    """Most requests ask for the model that is there, so that many are answered."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and len(body["model"]) % 4:
        body["model"] = "a1"
    return body


@DOCUMENT.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_made_from_the_document_is_answered_as_it_says(case: schemathesis.Case) -> None:
    answer = case.call()
    assert answer.status_code < 500, answer.text
    case.validate_response(answer, excluded_checks=UNTRUE_HERE)
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_every_status_of_a_call_is_in_the_document(path: str) -> None:
    told = APP.openapi()["paths"][path]["post"]["responses"]
    assert {int(status) for status in told} == {200, 400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503}
    assert set(told["200"]["content"]) == {"application/json", "text/event-stream"}
    assert told["200"]["content"]["application/json"]["schema"]["$ref"].endswith(("Completion", "ResponseObject"))
