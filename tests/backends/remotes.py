"""What tests of models on servers share."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from a1agent.backends.base import Backend
from tests.backends.contract import BackendFactory
from tests.servers.flavors import Flavor
from tests.servers.process import RealServer

FAST = {"retry_wait_s": 0.01}
Served = TypeVar("Served", bound=Flavor)


class Serve(Protocol):
    """Starts a server that ends with the test."""

    async def __call__(self, kind: type[Served], **options: Any) -> Served: ...


def factory(load: Callable[..., Backend], server: Flavor | RealServer, **options: Any) -> BackendFactory:
    """Loads a model of a server; a context that is asked for is given as an option."""

    def make(context: int | None) -> Backend:
        asked = {} if context is None else {"context_length": context}
        return load(f"{server.url}#{server.name}", **FAST, **options, **asked)

    return make
