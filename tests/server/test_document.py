"""The OpenAPI document and the server agree, whatever a client makes of the document."""

import schemathesis
from hypothesis import HealthCheck, settings

from a1agent import A1
from a1agent.server import ServerSettings, create_app
from tests.doubles import sums_pair

CAPS = ServerSettings(max_seconds=5, max_chains=4, max_turns=4, max_tokens=200, max_n=2, allowed_hosts=("testserver",))
APP = create_app(A1(*sums_pair(), calibration=None, min_step_tokens=0, chains=2, turns=3), CAPS)
DOCUMENT = schemathesis.openapi.from_asgi("/openapi.json", APP)


@DOCUMENT.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_made_from_the_document_breaks_the_server(case: schemathesis.Case) -> None:
    answer = case.call()
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
