"""Routers of SGLang and of vLLM before servers of our own that speak their formats: chains keep to their replica."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from a1agent import A1, A1Error, embedded
from a1agent.prompts import ask_for_box
from a1agent.types import Question
from tests.servers.beside import router
from tests.servers.flavors import Flavor
from tests.servers.sglang import Sglang
from tests.servers.vllm import Vllm

pytest.importorskip("llama_cpp")
QUESTION = ask_for_box(Question.of("What is 47 * 28 + 783?"))


@dataclass(frozen=True)
class Kind:
    """A router with the policy and the header that keep a chain where it is, and what it does not tell of a model."""

    server: type[Flavor]
    module: str
    policy: str
    header: str
    untold: str


KINDS = {
    "sglang": Kind(
        Sglang,
        "sglang_router",
        "manual",
        "x-smg-routing-key",
        f"context_length=1024&tokenizer={embedded.path('target')}",
    ),
    "vllm": Kind(Vllm, "vllm_router", "consistent_hash", "x-session-id", ""),
}


@dataclass(frozen=True)
class Routed:
    name: str
    kind: Kind
    url: str
    servers: list[Flavor]

    def address(self, options: str) -> str:
        return f"{self.name}:{self.url}#tiny?{options}"


@pytest.fixture(params=KINDS)
def routed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Routed]:
    kind = KINDS[request.param]
    with ExitStack() as stack:
        servers = [kind.server(embedded.path("target")) for _ in range(2)]
        for server in servers:
            stack.callback(server.close)
        urls = [server.url for server in servers]
        url = stack.enter_context(router(kind.module, urls, kind.policy, tmp_path / "log"))
        yield Routed(request.param, kind, url, servers)


def test_each_chain_stays_with_one_replica(routed: Routed) -> None:
    options = {"calibration": None, "seed": 1, "chains": 16, "min_step_tokens": 0, "early_stop": "off"}
    with A1("embedded:draft", routed.address(routed.kind.untold), **options) as a1:
        result = a1.solve(QUESTION)
    assert result.answer == "2099"
    assert result.stats.chains_finished == 16
    replicas: dict[str, set[int]] = defaultdict(set)
    for number, server in enumerate(routed.servers):
        for request in server.socket.log:
            replicas[request.headers.get(routed.kind.header, "")].add(number)
    replicas.pop("")
    assert len(replicas) >= 16
    assert all(len(found) == 1 for found in replicas.values())
    assert {number for found in replicas.values() for number in found} == {0, 1}


@pytest.mark.parametrize("routed", ["sglang"], indirect=True)
def test_what_a_router_does_not_tell_is_asked_for(routed: Routed) -> None:
    with pytest.raises(A1Error, match="how long") as caught, A1("embedded:draft", routed.address("")) as a1:
        a1.solve(QUESTION)
    assert "context_length=" in caught.value.hint
