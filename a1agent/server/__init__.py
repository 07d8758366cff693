"""An OpenAI-compatible server over one agent, with a page to watch it think. Needs the extra `server`."""

from a1agent.errors import MissingExtra

try:
    from a1agent.server.app import create_app
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] in ("fastapi", "prometheus_client", "sse_starlette", "starlette"):
        raise MissingExtra("the server", "server") from None
    raise
from a1agent.server.keys import Keys, read_keys
from a1agent.server.settings import ServerSettings

__all__ = ["Keys", "ServerSettings", "create_app", "read_keys"]
